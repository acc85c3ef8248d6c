-- Ends a stream that lasts longer than front.maxSeconds with an error in the form of its API, which clients understand.
-- The server is told to stop, so its slot is free at once. A filter can end a stream only by raising an error, for
-- which HAProxy writes an alert.
--
-- Loaded once per thread, before seal.lua, whose filter passes the responses on: another filter would cost every
-- request about 40 µs. Answers that are not streamed end by "timeout server".

local message = "The answer took longer than a request may last."
local openai = 'data: {"error":{"message":"' .. message .. '","type":"server_error","param":null,'
  .. '"code":"request_too_long"}}\n\n'
local ENDS = {
  ["/api/generate"] = '{"error":"' .. message .. '"}\n',
  ["/api/chat"] = '{"error":"' .. message .. '"}\n',
  ["/v1/chat/completions"] = openai .. "data: [DONE]\n\n",
  ["/v1/completions"] = openai .. "data: [DONE]\n\n",
  ["/v1/responses"] = 'event: error\ndata: {"type":"error","code":"request_too_long","message":"' .. message
    .. '","param":null}\n\n',
  ["/v1/messages"] = 'event: error\ndata: {"type":"error","error":{"type":"timeout_error","message":"' .. message
    .. '"}}\n\n',
}

-- Each function gets the filter's own table. Its field began is the second in which the request arrived.
Ends = {}

function Ends.headers(own, txn, response)
  if not txn:get_var("txn.stream") then
    return
  end
  own.most = txn:get_var("txn.max_seconds")
  own.event = ENDS[txn:get_var("txn.path")]
  if own.event and txn.f:status() == 200 and not response:get_headers()["content-length"] then
    filter.register_data_filter(own, response.channel)
  end
end

-- payload is called for each piece that the server sends, about one per token.
function Ends.payload(own, response)
  if core.now().sec - own.began < own.most then
    return
  end
  if own.over then
    error("a request lasted longer than front.maxSeconds")
  end
  if not response:eom() then
    own.over = true
    response:append((response:body(-1) == "\n" and "" or "\n\n") .. own.event)
  end
end
