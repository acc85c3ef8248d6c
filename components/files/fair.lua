-- Fairness between teams by start-time fair queueing. A team's next request gets the turn after its last one, but not
-- before the turn that was served last, which is the virtual time. So a team with a hundred requests takes turns with a
-- team that sends its first one. HAProxy queues by priority class, and then by time plus an offset: the offset puts a
-- request at its turn. Each backend and priority class has its own virtual time.
--
-- Loaded once for all threads, because it runs only a few instructions for each request.

local queues = {} -- by backend and class: origin in ms, turn, and each team's last turn

local STEP = 4 -- ms between two turns, because HAProxy's clock and Lua's differ by up to 1 ms
local started = 0 -- number of queues so far, for their ids

local REACH = 400000 -- ms; HAProxy compares times that are up to 524 s apart

local function milliseconds()
  local now = core.now()
  return now.sec * 1000 + now.usec // 1000
end

core.register_action("fair", { "http-req" }, function(txn)
  local backend, team = txn.f:be_name(), txn:get_var("txn.team")
  local id = backend .. " " .. txn:get_var("txn.class")
  local now, queue = milliseconds(), queues[id]
  if not queue or txn.f:queue(backend) == 0 then
    started = started + 1
    queue = { origin = now, turn = 0, last = {}, id = started } -- the queue is empty, so all teams start equal
    queues[id] = queue
  end
  local turn = math.max(queue.turn, (queue.last[team] or -1) + 1)
  queue.last[team] = turn
  if now - queue.origin - turn * STEP > REACH then
    queue.origin = now - turn * STEP -- the queue has not been empty for minutes; waiting requests stay first
  end
  txn:set_var("txn.turn", turn)
  txn:set_var("txn.turn_of", queue.id)
  -- If the queue serves more than 250 turns per second for minutes, requests beyond REACH are first come, first served.
  txn:set_priority_offset(math.min(queue.origin + turn * STEP - now, REACH))
end)

core.register_action("served", { "http-res" }, function(txn)
  local turn = txn:get_var("txn.turn")
  local queue = turn and queues[txn.f:be_name() .. " " .. txn:get_var("txn.class")]
  if queue and queue.id == txn:get_var("txn.turn_of") then
    queue.turn = math.max(queue.turn, turn)
  end
end)

-- A request that no server answered, for instance because its client left, gives its turn back, so that its team is not
-- charged for it.
table.insert(Ended, function(txn)
  if not txn:get_var("txn.turn") then
    return
  end
  txn:unset_var("txn.turn")
  local queue, team = queues[txn.f:be_name() .. " " .. txn:get_var("txn.class")], txn:get_var("txn.team")
  if queue and queue.id == txn:get_var("txn.turn_of") then
    queue.last[team] = queue.last[team] - 1
  end
end)
