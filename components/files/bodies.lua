-- Memory for request bodies. A body that does not fit into HAProxy's ordinary buffer reserves its size before it is
-- read, and releases it when the server answers or the request ends. Bodies that exceed the budget are rejected, so
-- that the pod's memory always suffices. A team can reserve at most half of the budget.
--
-- Loaded once for all threads.

local ORDINARY = 12 * 1024 -- bytes that always fit into a buffer of 16 KiB, of which HAProxy keeps a part for itself

local held, by_team = 0, {}

local function change(txn, team, to)
  local before = txn:get_var("txn.body_held") or 0
  held = held + to - before
  by_team[team] = (by_team[team] or 0) + to - before
  txn:set_var("txn.body_held", to)
end

-- hold BUDGET MOST reserves memory for the body, or sets txn.no_room. Both arguments are in bytes. A body without a
-- length that has filled the buffer reserves MOST, because it may become that large.
core.register_action("hold", { "http-req" }, function(txn, budget, most)
  local size = math.tointeger(tonumber(txn.f:req_hdr("content-length") or ""))
  if not size then
    size = txn.f:req_body_len() + #txn.f:req_hdrs() + #txn.f:url() >= ORDINARY and tonumber(most) or 0
  end
  if size < ORDINARY then
    return
  end
  local team = txn:get_var("txn.team")
  budget = tonumber(budget)
  if held + size > budget or (by_team[team] or 0) + size > budget / 2 then
    txn:set_var("txn.no_room", true)
    return
  end
  change(txn, team, size)
end, 2)

-- fit changes the reservation to the real size of the body, which has arrived now.
core.register_action("fit", { "http-req" }, function(txn)
  if (txn:get_var("txn.body_held") or 0) > 0 then
    change(txn, txn:get_var("txn.team"), txn.f:req_body_len())
  end
end)

local function release(txn)
  if (txn:get_var("txn.body_held") or 0) > 0 then
    change(txn, txn:get_var("txn.team"), 0)
  end
end

core.register_action("release", { "http-res" }, release)

table.insert(Ended, release)

-- For usage.lua.
function Held_bytes()
  return held
end
