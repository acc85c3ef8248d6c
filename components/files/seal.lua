-- The second line of defense after the reader: this filter writes what HAProxy judged into the body, as its last
-- members. Of several members with the same name Go's decoder takes the last one, in any case of letters. So Ollama
-- runs the judged model with at most the judged number of tokens, even if the reader were wrong.
--
-- "Last" means before the brace that closes the first value, because the decoder stops there. The filter finds this
-- brace by reading the body again, with other code than the reader's, in the pieces that go on to the server. The brace
-- does not go on before only white space is seen after it. A body that cannot be sealed never reaches the server
-- completely: the filter raises an error, which ends the request.
--
-- Loaded once per thread, as a filter of the front's requests. It passes the responses to ends.lua.

local find, byte, sub = string.find, string.byte, string.sub

local PIECE = 16 * 1024 -- bytes read at a time; a piece of brackets only takes 4 ms
local PIECES = 64 -- pieces that go on to the server at a time, before the other streams of the thread run
local BURST = 12000 -- brackets and strings at a time: 3 ms
local TAIL = 4096 -- bytes of white space after the value; reader.lua rejects more

-- The limit of output tokens, by path. Ollama merges a second "options" into the first.
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
  elseif not txn:get_var("txn.name") then -- only requests to a model have a name
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

-- backslashes counts the backslashes that end at byte to, back to byte from at most. It counts the first ones one by
-- one, because most runs are short.
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

-- string_end returns the position of the quote that ends the string; or, negative, that of an escaped quote after which
-- to search again; or nil. at is a byte in the string. It skips escaped quotes with one backslash each at C's speed:
-- the string ends at the first quote after another byte, or at one after two backslashes. plain and double, which it
-- also returns, are where the next one of each kind is, so that it searches for each once.
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

local NEAR, DENSE = 8, 16 -- DENSE escaped quotes, each within NEAR bytes of the one before

-- leave_string reads on in a string. It returns where the string ends, or nil; how many bytes of the next piece belong
-- to an escape; and the number of steps.
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

-- begin checks that the body is an object. It is called until the first byte that is not white space.
function Seal:begin(piece)
  local first = find(piece, "[^ \t\n\r]")
  if first and byte(piece, first) ~= 123 then
    error("the body is not a JSON object")
  end
  self.begun = first ~= nil
end

-- seal writes the members before the brace at the offset close, which counts from 1.
function Seal:seal(message, size, close)
  local rest = message:eom() and size > close and message:body(close, size - close) or ""
  if message:body(close - 1, 1) ~= "}" or not message:eom() or #rest > TAIL or find(rest, "[^ \t\n\r]") then
    error("the body goes on after its first value")
  end
  if message:insert(self.members, close - 1) ~= #self.members then
    error("there is no room for the judged model")
  end
  self.sealed = true
end

-- http_payload returns how many bytes go on to the server. HAProxy passes the others again.
function Seal:http_payload(_, message)
  if message.channel:is_resp() then
    return Ends.payload(self, message)
  elseif self.sealed then
    return
  end
  local size = message:input() -- includes a byte or more for the trailers of a chunked body
  if size == 0 then
    return 0
  end
  debug.sethook() -- stop counting instructions, as in reader.lua: this function has its own bounds
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
