-- A pool that may shrink to nothing has no server for its first request. It is held here until one is there, or until it has waited as long as
-- it would have in the queue; then it goes on, and HAProxy answers that nobody is there. While it is held it counts as under way in its backend,
-- which is what the autoscaler looks at.
core.register_action("await_server", { "http-req" }, function(txn, seconds)
  local backend = txn.f:be_name()
  local ends = core.now().sec + tonumber(seconds)
  while txn.f:nbsrv(backend) == 0 and core.now().sec < ends do
    core.msleep(200)
  end
end, 1)
