-- Keys that you manage elsewhere: the Secret front.keysSecret has a line "SHA-256-in-hex team" for each. The kubelet
-- updates the mounted file about a minute after the Secret changes. This script reloads it, so that a new key works,
-- and a removed one stops working, without a restart. It skips and counts lines that are malformed or whose team is not
-- in the config, so they cannot keep the front from starting.
--
-- Loaded once for all threads.

local PATH = "/etc/haproxy-own-keys/keys.map"
local SECONDS = 5

local teams = {}
for line in io.lines("/etc/haproxy/limits.map") do
  local team = line:match("^(%S+) ")
  if team then
    teams[team] = true
  end
end

local keys, text = {}, nil -- team by hash; the content of the file when it was last read

-- load reloads the file if it has changed, and then returns a line for the log.
local function load()
  local file = io.open(PATH)
  local now = file and file:read("a") or ""
  if file then
    file:close()
  end
  if now == text then
    return nil
  end
  text = now
  local loaded, count, wrong = {}, 0, 0
  for line in now:gmatch("[^\r\n]+") do
    local hash, team = line:match("^%s*(%x+)%s+(%S+)%s*$")
    if hash and #hash == 64 and teams[team] then
      loaded[hash:lower()] = team
      count = count + 1
    elseif not line:find("^%s*#") and line:find("%S") then
      wrong = wrong + 1
    end
  end
  keys = loaded
  return string.format('{"event":"front.keysSecret was read","keys":%d,"wrong_lines":%d}', count, wrong)
end

local line = load() -- before the first request

core.register_task(function()
  while true do
    if line then
      core.log(core.notice, line)
    end
    core.sleep(SECONDS)
    line = load()
  end
end)

core.register_action("own_key", { "http-req" }, function(txn)
  local team = keys[txn:get_var("txn.hash")]
  if team then
    txn:set_var("txn.team", team)
    txn:set_var("txn.key", "own")
  end
end)
