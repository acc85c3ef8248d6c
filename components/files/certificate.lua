-- Loads a renewed certificate without a restart. The kubelet updates the mounted files of front.tlsSecret about a
-- minute after the Secret changes. This script then replaces the certificate through HAProxy's command line, on a
-- socket that only this container has.
--
-- Loaded once for all threads.

local FOLDER = "/etc/haproxy-tls"
local SOCKET = "/run/haproxy/admin.sock"
local SECONDS = 5

local function read()
  local both = ""
  for _, name in ipairs({ "tls.crt", "tls.key" }) do
    local file = io.open(FOLDER .. "/" .. name)
    if not file then
      return nil
    end
    both = both .. file:read("a"):gsub("\r", ""):gsub("\n+", "\n") .. "\n"
    file:close()
  end
  return (both:gsub("\n+", "\n"))
end

local function command(text)
  local socket = core.tcp()
  if not socket:connect(SOCKET) then
    return "cannot connect to " .. SOCKET
  end
  socket:send(text .. "\n")
  local answer = socket:receive("*a") or ""
  socket:close()
  return answer
end

local known = read()

core.register_task(function()
  while true do
    core.sleep(SECONDS)
    local now = read()
    if now and now ~= known then
      local answer = command("set ssl cert @front/certificate <<\n" .. now)
        .. command("commit ssl cert @front/certificate")
      local done = answer:find("Success!", 1, true) ~= nil
      if done then
        known = now
      else
        -- The key does not match yet. Both files change at once, so the next check reads both.
        command("abort ssl cert @front/certificate")
      end
      local line = '{"event":"front.tlsSecret was renewed","ok":' .. tostring(done) .. "}"
      core.log(done and core.notice or core.err, line)
    end
  end
end)
