-- The second line behind the reader, by construction: what HAProxy judged is written into the body as its last members. Of two members with
-- one name Go's decoder takes the last, whatever their case, so Ollama runs the judged model, and no more tokens than judged, whatever stood
-- before, even if the reader were wrong.
--
-- "Last" means before the brace that closes the first value, since the decoder stops there. That brace is found by reading the body once
-- more, by other code than the reader's, in pieces as they go on to the server. It does not go on before only white space is seen behind it.
-- What cannot be sealed does not reach the server whole: the raised error ends the request.
--
-- Loaded once per thread, as a filter of the front's requests.

local find, byte = string.find, string.byte

local PIECE = 64 * 1024 -- bytes read at a time; the streams of the thread go on in between
local TAIL = 4096 -- bytes of white space after the value; reader.lua refuses more

-- How a path names its limit of output tokens. Ollama merges a second "options" into the first.
local LIMITS = {
  ["/api/generate"] = ',"options":{"num_predict":%d}',
  ["/api/chat"] = ',"options":{"num_predict":%d}',
  ["/v1/chat/completions"] = ',"max_tokens":%d',
  ["/v1/completions"] = ',"max_tokens":%d',
  ["/v1/responses"] = ',"max_output_tokens":%d',
  ["/v1/messages"] = ',"max_tokens":%d',
}

local function quote(text)
  return '"' .. text:gsub('[%c"\\]', function(char)
    return string.format("\\u%04x", byte(char))
  end) .. '"'
end

local Seal = { id = "seal", flags = filter.FLT_CFG_FL_HTX }
Seal.__index = Seal

function Seal:new()
  return setmetatable({ depth = 0, in_string = false, skip = 0 }, Seal)
end

function Seal:http_headers(txn, message)
  -- txn.name is set for requests that go to a model.
  if message.channel:is_resp() or not txn:get_var("txn.name") then
    return filter.CONTINUE
  end
  self.members = ',"model":' .. quote(txn:get_var("txn.model"))
  local limit, tokens = LIMITS[txn.f:path()], txn:get_var("txn.tokens")
  if limit and tokens and tokens > 0 then
    self.members = self.members .. limit:format(tokens)
  end
  local length = message:get_headers()["content-length"]
  if length then
    message:set_header("content-length", tostring(math.tointeger(tonumber(length[0])) + #self.members))
  end
  filter.register_data_filter(self, message.channel)
  return filter.CONTINUE
end

-- close returns where in the piece the first value ends, or nil.
function Seal:close(piece)
  local at = 1 + self.skip
  self.skip = 0
  while true do
    if self.in_string then
      local found = find(piece, '["\\]', at)
      if not found then
        self.skip = math.max(at - #piece - 1, 0)
        return nil
      end
      self.in_string = byte(piece, found) == 92
      at = found + (self.in_string and 2 or 1)
    else
      local found = find(piece, '["%[%]{}]', at)
      if not found then
        self.skip = math.max(at - #piece - 1, 0)
        return nil
      end
      local char = byte(piece, found)
      at = found + 1
      if char == 34 then
        self.in_string = true
      elseif char == 91 or char == 123 then
        self.depth = self.depth + 1
      else
        self.depth = self.depth - 1
        if self.depth <= 0 then
          return found
        end
      end
    end
  end
end

-- http_payload returns how many bytes go on to the server; the rest comes again.
function Seal:http_payload(_, message)
  if message.channel:is_resp() or self.sealed then
    return
  end
  local size = message:input() -- with a byte or more for the trailers of a chunked body
  if size == 0 then
    return 0
  end
  local piece = message:body(0, math.min(size, PIECE)) or ""
  if not self.begun then
    local first = find(piece, "[^ \t\n\r]")
    if not first then
      return piece ~= "" and #piece or error("the body is empty")
    elseif byte(piece, first) ~= 123 then
      error("the body is no JSON object")
    end
    self.begun = true
  end
  local close = self:close(piece)
  if not close then
    if message:eom() and #piece < PIECE then
      error("the body ends within its first value")
    end
    return #piece
  end
  local rest = message:eom() and size > close and message:body(close, size - close) or ""
  if byte(piece, close) ~= 125 or not message:eom() or #rest > TAIL or find(rest, "[^ \t\n\r]") then
    error("the body goes on behind its first value")
  end
  if message:insert(self.members, close - 1) ~= #self.members then
    error("there is no room for the judged model")
  end
  self.sealed = true
end

core.register_filter("seal", Seal, function(class)
  return class
end)
