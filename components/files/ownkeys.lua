-- Keys that are managed elsewhere: the Secret front.keysSecret has a line "SHA-256-in-hex team" for each. The kubelet renews the mounted file
-- about a minute after the Secret changes; it is read again here, so that a new key works and an old one ends without a restart. A line that
-- is none, or whose team the config does not have, is left out and told in the log: it cannot keep the front from starting.
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

local keys, text = {}, nil -- team by hash; the file as it was read last

-- load returns a line for the log where there is something to tell.
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
