-- The second line behind the reader, by construction: what HAProxy judged is written into the body as its last members. Of two members with
-- one name Go's decoder takes the last, whatever their case, so Ollama runs the judged model, and no more tokens than judged, whatever stood
-- before, even if the reader were wrong.
--
-- "Last" means before the brace that closes the first value, since the decoder stops there. That brace is found by reading the body once
-- more, by other code than the reader's, in pieces as they go on to the server. It does not go on before only white space is seen behind it.
-- What cannot be sealed does not reach the server whole: the raised error ends the request.
--
-- Loaded once per thread, as a filter of the front's requests; it hands the responses to ends.lua.

local find, byte, sub = string.find, string.byte, string.sub

local PIECE = 64 * 1024 -- bytes read at a time
local PIECES = 16 -- that go on to the server at a time; the streams of the thread go on in between
local BURST = 20000 -- brackets and strings after which the rest waits: 5 ms
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
  return setmetatable({ depth = 0, in_string = false, skip = 0, steps = 0, began = core.now().sec }, Seal)
end

function Seal:http_headers(txn, message)
  if message.channel:is_resp() then
    Ends.headers(self, txn, message)
    return filter.CONTINUE
  elseif not txn:get_var("txn.name") then -- it is set for requests that go to a model
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

local RUN = string.rep("\\", 256)

-- backslashes counts those that end at a byte, and reaches no further back than from. The first are counted one by one: most runs are short.
local function backslashes(piece, from, to)
  local at = to
  while at >= from and to - at < 256 and byte(piece, at) == 92 do
    at = at - 1
  end
  if to - at < 256 then
    return to - at
  end
  while at - 255 >= from and sub(piece, at - 255, at) == RUN do
    at = at - 256
  end
  while at >= from and byte(piece, at) == 92 do
    at = at - 1
  end
  return to - at
end

-- string_end returns the quote that ends the string that goes on at a byte; or, negative, an escaped one behind which to look again; or nil.
-- Escaped quotes with one backslash each are passed over at C's speed: the end is the first quote that another byte stands before, or one
-- of those that two backslashes stand before. Where the next of either is, it takes and returns again: each is looked for once.
local function string_end(piece, at, plain, double)
  if not plain or plain < at then
    plain = find(piece, '[^\\]"', at) or math.maxinteger
  end
  if not double or double < at then
    double = find(piece, '\\\\"', at, true) or math.maxinteger
  end
  if plain < double then
    return plain + 1, plain, double
  elseif double == math.maxinteger then
    return nil, plain, double
  end
  local quote = double + 2
  return backslashes(piece, at, quote - 1) % 2 == 0 and quote or -quote, plain, double
end

local NEAR, DENSE = 8, 16 -- so many escaped quotes, each so near to the one before, are dense

-- leave_string reads on in a string and returns where it ends; or nil, with how many bytes of the next piece belong to an escape; and the
-- steps that it took.
local function leave_string(piece, at)
  local steps, near, plain, double = 0, 0, nil, nil
  while true do
    local quote = find(piece, '"', at, true)
    steps = steps + 1
    if not quote then
      return nil, at > #piece and at - #piece - 1 or backslashes(piece, at, #piece) % 2, steps
    elseif quote == at or byte(piece, quote - 1) ~= 92 then
      return quote, 0, steps
    elseif byte(piece, quote - 2) == 92 and backslashes(piece, at, quote - 1) % 2 == 0 then
      return quote, 0, steps
    elseif quote - at >= NEAR then
      at, near = quote + 1, 0
    elseif near < DENSE then
      at, near = quote + 1, near + 1
    else
      quote, plain, double = string_end(piece, at, plain, double)
      if not quote then
        return nil, backslashes(piece, at, #piece) % 2, steps
      elseif quote > 0 then
        return quote, 0, steps
      end
      at = 1 - quote
    end
  end
end

-- close returns where in the piece the first value ends, or nil.
function Seal:close(piece)
  local at = 1 + self.skip
  self.skip = 0
  while true do
    if self.in_string then
      local quote, skip, steps = leave_string(piece, at)
      self.steps = self.steps + steps
      if not quote then
        self.skip = skip
        return nil
      end
      self.in_string, at = false, quote + 1
    else
      local found = find(piece, '["%[%]{}]', at)
      if not found then
        self.skip = math.max(at - #piece - 1, 0)
        return nil
      end
      self.steps = self.steps + 1
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

-- begin checks that the body is an object; it is called until its first bytes are here.
function Seal:begin(piece)
  local first = find(piece, "[^ \t\n\r]")
  if first and byte(piece, first) ~= 123 then
    error("the body is no JSON object")
  end
  self.begun = first ~= nil
end

-- seal writes the members before the brace at close, an offset from 1.
function Seal:seal(message, size, close)
  local rest = message:eom() and size > close and message:body(close, size - close) or ""
  if message:body(close - 1, 1) ~= "}" or not message:eom() or #rest > TAIL or find(rest, "[^ \t\n\r]") then
    error("the body goes on behind its first value")
  end
  if message:insert(self.members, close - 1) ~= #self.members then
    error("there is no room for the judged model")
  end
  self.sealed = true
end

-- http_payload returns how many bytes go on to the server; the rest comes again.
function Seal:http_payload(_, message)
  if message.channel:is_resp() then
    return Ends.payload(self, message)
  elseif self.sealed then
    return
  end
  local size = message:input() -- with a byte or more for the trailers of a chunked body
  if size == 0 then
    return 0
  end
  debug.sethook() -- as in reader.lua: what follows has bounds of its own
  local read, steps = 0, self.steps
  for _ = 1, PIECES do
    local piece = message:body(read, math.min(size - read, PIECE)) or ""
    if not self.begun then
      self:begin(piece)
    end
    local close = self.begun and self:close(piece)
    if close then
      return self:seal(message, size, read + close)
    end
    read = read + #piece
    if #piece < PIECE then
      if message:eom() then
        error("the body ends within its first value")
      end
      return read
    elseif self.steps - steps > BURST then
      return read
    end
  end
  return read
end

core.register_filter("seal", Seal, function(class)
  return class
end)
