-- Fair between teams: start-time fair queueing. A team's next request stands one turn of virtual time behind its last; virtual time is the
-- turn that was served last. A team's hundred requests so take turns with another's first. HAProxy queues by priority class, then by time
-- plus an offset: the offset puts a request at its turn. There is one virtual time for each backend and priority class.
--
-- Loaded once for all threads: a few instructions for each request.

local queues = {} -- by backend and class: origin in ms, turn, and each team's last turn

local STEP = 4 -- ms between two turns: HAProxy's clock and the one that Lua sees differ by one
local started = 0 -- queues so far

local REACH = 400000 -- ms; HAProxy orders by times up to 524 s apart

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
    queue = { origin = now, turn = 0, last = {}, id = started } -- nobody waits: nobody is behind
    queues[id] = queue
  end
  local turn = math.max(queue.turn, (queue.last[team] or -1) + 1)
  queue.last[team] = turn
  if now - queue.origin - turn * STEP > REACH then
    queue.origin = now - turn * STEP -- a queue that was not empty for minutes; those who wait were first
  end
  txn:set_var("txn.turn", turn)
  txn:set_var("txn.turn_of", queue.id)
  -- Where more than 250 turns a second are served for minutes on end, the rest of the queue is first come, first served.
  txn:set_priority_offset(math.min(queue.origin + turn * STEP - now, REACH))
end)

core.register_action("served", { "http-res" }, function(txn)
  local turn = txn:get_var("txn.turn")
  local queue = turn and queues[txn.f:be_name() .. " " .. txn:get_var("txn.class")]
  if queue and queue.id == txn:get_var("txn.turn_of") then
    queue.turn = math.max(queue.turn, turn)
  end
end)

-- A request that no server answered, such as one whose client gave up, gives its turn back: its team owes nothing.
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
