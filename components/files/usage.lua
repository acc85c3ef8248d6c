-- Usage by team and durations of requests, in Prometheus' format. The rules of haproxy.cfg keep the counters in the
-- tables "teams" and "usage". Only the end of a request tells how long it took, so this script counts durations. The
-- number of series depends on the teams and models of the config, not on what clients send.

-- Bounds in seconds, up to the 900 for which a connection may be silent. A short answer takes one or two seconds, a
-- long one a minute.
local bounds = { 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900 }
local durations = {} -- by pool/model: count, sum, and for each bound the requests that took no longer

-- Requests whose client leaves count too.
table.insert(Ended, function(txn, channel, began)
  -- team/pool/model; only requests that reach a queue have it.
  local usage = channel:is_resp() and txn:get_var("txn.usage")
  if not usage then
    return
  end
  local model = usage:match("^[^/]+/(.+)$")
  local now = core.now()
  local took = now.sec - began.sec + (now.usec - began.usec) / 1e6
  local known = durations[model]
  if not known then
    known = { count = 0, sum = 0 }
    for i in ipairs(bounds) do
      known[i] = 0
    end
    durations[model] = known
  end
  known.count = known.count + 1
  known.sum = known.sum + took
  for i, bound in ipairs(bounds) do
    if took <= bound then
      known[i] = known[i] + 1
    end
  end
end)

-- Name, how many make one unit, help.
local by_model = {
  { "ollama_team_requests_total", 1, "Requests of a team that were admitted to the queue of a model." },
  { "ollama_team_errors_total", 1, "Admitted requests of a team that ended with a status of 500 or more." },
  { "ollama_team_queue_seconds_total", 1000, "Seconds that admitted requests of a team waited for a slot." },
  { "ollama_team_first_byte_seconds_total", 1000, "Seconds from a slot to the server's first byte." },
}

local function quote(text)
  return (text:gsub('[\\"\n]', { ["\\"] = "\\\\", ['"'] = '\\"', ["\n"] = "\\n" }))
end

local function entries(table_name)
  return core.proxies[table_name].stktable:dump()
end

-- The limits, as haproxy.cfg reads them: a team and a number per line, where 0 means no limit.
local limits = {}
for line in io.lines("/etc/haproxy/limits.map") do
  local team, limit = line:match("^(%S+) (%d+)$")
  if team then
    limits[team] = tonumber(limit)
  end
end

core.register_service("usage", "http", function(applet)
  local lines = {}
  local function family(name, kind, help)
    table.insert(lines, "# HELP " .. name .. " " .. help)
    table.insert(lines, "# TYPE " .. name .. " " .. kind)
  end

  for index, metric in ipairs(by_model) do
    local name, scale, help = table.unpack(metric)
    family(name, "counter", help)
    for key in pairs(entries("usage")) do
      local team, pool, model = key:match("^([^/]+)/([^/]+)/(.+)$")
      if team then
        local labels = string.format('team="%s",pool="%s",model="%s"', quote(team), quote(pool), quote(model))
        local value = applet.c:table_gpc(key, index - 1, "usage") / scale
        table.insert(lines, string.format("%s{%s} %.15g", name, labels, value))
      end
    end
  end
  family("ollama_team_refused_total", "counter", "Requests of a team that one of its limits rejected with 429.")
  for team in pairs(entries("teams")) do
    local refused = applet.c:table_gpc(team, 1, "teams")
    table.insert(lines, string.format('ollama_team_refused_total{team="%s"} %d', quote(team), refused))
  end
  family("ollama_team_requests_inflight", "gauge", "Requests of a team in flight, including waiting ones.")
  for team, entry in pairs(entries("teams")) do
    table.insert(lines, string.format('ollama_team_requests_inflight{team="%s"} %d', quote(team), entry.conn_cur))
  end

  family("ollama_team_requests_per_minute_limit", "gauge", "Limit of requests per minute of a team; 0 means no limit.")
  for team, limit in pairs(limits) do
    table.insert(lines, string.format('ollama_team_requests_per_minute_limit{team="%s"} %d', quote(team), limit))
  end

  family("ollama_front_failed_authentications_total", "counter", "Requests without a valid key or token.")
  table.insert(lines, "ollama_front_failed_authentications_total " .. applet.c:table_gpc("all", 0, "all_failures"))
  family("ollama_front_body_bytes", "gauge", "Memory that request bodies have reserved.")
  table.insert(lines, "ollama_front_body_bytes " .. Held_bytes())

  local name = "ollama_request_duration_seconds"
  family(name, "histogram", "Seconds from a request to the last byte of its answer, including the time in the queue.")
  for key, known in pairs(durations) do
    local pool, model = key:match("^([^/]+)/(.+)$")
    local labels = string.format('pool="%s",model="%s"', quote(pool), quote(model))
    for i, bound in ipairs(bounds) do
      table.insert(lines, string.format('%s_bucket{%s,le="%.15g"} %d', name, labels, bound, known[i]))
    end
    table.insert(lines, string.format('%s_bucket{%s,le="+Inf"} %d', name, labels, known.count))
    table.insert(lines, string.format("%s_sum{%s} %.15g", name, labels, known.sum))
    table.insert(lines, string.format("%s_count{%s} %d", name, labels, known.count))
  end

  local body = table.concat(lines, "\n") .. "\n"
  applet:set_status(200)
  applet:add_header("content-type", "text/plain; version=0.0.4")
  applet:add_header("content-length", tostring(#body))
  applet:start_response()
  applet:send(body)
end)
