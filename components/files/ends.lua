-- A request may last front.maxSeconds. Then its stream ends with an error that clients understand, in the form of its API, and the server is
-- told to stop: its slot is free at once. A raised error is what ends a stream from a filter; HAProxy writes an alert for each.
--
-- Loaded once per thread, as a filter of the front's responses. Answers that are not streamed end by "timeout server".

local most -- seconds, from haproxy.cfg

local message = "The answer took longer than a request may last here."
local openai = 'data: {"error":{"message":"' .. message .. '","type":"server_error","param":null,"code":"request_too_long"}}\n\n'
local ENDS = {
  ["/api/generate"] = '{"error":"' .. message .. '"}\n',
  ["/api/chat"] = '{"error":"' .. message .. '"}\n',
  ["/v1/chat/completions"] = openai .. "data: [DONE]\n\n",
  ["/v1/completions"] = openai .. "data: [DONE]\n\n",
  ["/v1/responses"] = 'event: error\ndata: {"type":"error","code":"request_too_long","message":"' .. message .. '","param":null}\n\n',
  ["/v1/messages"] = 'event: error\ndata: {"type":"error","error":{"type":"timeout_error","message":"' .. message .. '"}}\n\n',
}

local Ends = { id = "ends", flags = filter.FLT_CFG_FL_HTX }
Ends.__index = Ends

function Ends:new()
  return setmetatable({ began = core.now().sec }, Ends)
end

function Ends:http_headers(txn, response)
  if not response.channel:is_resp() or not txn:get_var("txn.stream") then
    return filter.CONTINUE
  end
  self.event = ENDS[txn:get_var("txn.path")]
  if self.event and txn.f:status() == 200 and not response:get_headers()["content-length"] then
    filter.register_data_filter(self, response.channel)
  end
  return filter.CONTINUE
end

-- http_payload is called for each piece that the server sends, about one for a token.
function Ends:http_payload(_, response)
  if core.now().sec - self.began < most or not response.channel:is_resp() then
    return
  end
  if self.over then
    error("a request lasted longer than front.maxSeconds")
  end
  if not response:eom() then
    self.over = true
    response:append((response:body(-1) == "\n" and "" or "\n\n") .. self.event)
  end
end

core.register_filter("ends", Ends, function(class, arguments)
  most = tonumber(arguments[1])
  return class
end)
