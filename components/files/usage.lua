-- The teams' use, as Prometheus reads it. The counters are kept by the rules of haproxy.cfg, in the tables "teams" and "usage"; this only
-- prints them. There are as many series as the config has teams and models, whatever clients send.

local by_model = {
  { name = "ollama_team_requests_total", help = "Requests of a team that were let in to a model's queue.", scale = 1 },
  { name = "ollama_team_errors_total", help = "Those of them that ended with a status of 500 or more.", scale = 1 },
  { name = "ollama_team_queue_seconds_total", help = "Seconds that they waited for a slot.", scale = 1000 },
  { name = "ollama_team_first_byte_seconds_total", help = "Seconds from a slot to the server's first byte.", scale = 1000 },
}

local function quote(text)
  return (text:gsub('[\\"\n]', { ["\\"] = "\\\\", ['"'] = '\\"', ["\n"] = "\\n" }))
end

local function entries(table_name)
  return core.proxies[table_name].stktable:dump()
end

core.register_service("usage", "http", function(applet)
  local lines = {}
  local function family(name, kind, help)
    table.insert(lines, "# HELP " .. name .. " " .. help)
    table.insert(lines, "# TYPE " .. name .. " " .. kind)
  end

  for index, metric in ipairs(by_model) do
    family(metric.name, "counter", metric.help)
    for key in pairs(entries("usage")) do
      local team, pool, model = key:match("^([^/]+)/([^/]+)/(.+)$")
      if team then
        local value = applet.c:table_gpc(key, index - 1, "usage") / metric.scale
        table.insert(lines, string.format('%s{team="%s",pool="%s",model="%s"} %.15g', metric.name, quote(team), quote(pool), quote(model), value))
      end
    end
  end
  family("ollama_team_refused_total", "counter", "Requests that were refused with 429: over the team's limit.")
  for team in pairs(entries("teams")) do
    table.insert(lines, string.format('ollama_team_refused_total{team="%s"} %d', quote(team), applet.c:table_gpc(team, 1, "teams")))
  end
  family("ollama_team_requests_inflight", "gauge", "Requests of a team under way, waiting ones included.")
  for team, entry in pairs(entries("teams")) do
    table.insert(lines, string.format('ollama_team_requests_inflight{team="%s"} %d', quote(team), entry.conn_cur))
  end

  local body = table.concat(lines, "\n") .. "\n"
  applet:set_status(200)
  applet:add_header("content-type", "text/plain; version=0.0.4")
  applet:add_header("content-length", tostring(#body))
  applet:start_response()
  applet:send(body)
end)
