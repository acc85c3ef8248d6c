-- The strict reader reads a request's body once, before any decision, and reports what Ollama will read from it.
--
-- Ollama decodes with Go's encoding/json: of several members with the same name the last one wins, names match in any
-- case, escapes are decoded, and everything after the first value is ignored. The reader rejects a body that can be
-- read in another way, so that the model that HAProxy judges is the model that answers. It looks only at the members of
-- the top level and of "options", and skips everything else at the speed of memchr.
--
-- Loaded once per thread. It reads windows of 16 KiB and yields after 32 of them, or after a few thousand brackets
-- and strings, so that no body holds up the streams of its thread. A yield is a turn of HAProxy's loop, so a body of 1
-- MiB gets only a few.
--
-- For a body that it accepts, the reader sets txn.model; txn.stream and txn.structured (booleans); txn.num_ctx;
-- txn.asked_tokens (the smallest limit of output tokens); txn.bad_limit (the name of an invalid limit); txn.refused
-- (the name of a member that no request may have); and, last, txn.body_read. Otherwise it sets txn.body_error. If
-- anything fails in here, txn.body_read is not set, and haproxy.cfg rejects the request.

local find, byte, sub, lower = string.find, string.byte, string.sub, string.lower

local WINDOW = 16 * 1024 -- bytes; a window of brackets only takes 4 ms, and no yield is within one
local WINDOWS = 32 -- windows between two yields: 5 ms of the slowest input
local BURST = 12000 -- steps after which the next window begins with a yield: 3 ms
local LARGE = 1024 * 1024 -- bytes; a thread reads one larger body at a time, because each is copied into Lua's memory
local STEPS = 2000000 -- brackets, strings and escaped quotes: 0.5 s of work, ten times as many as in a chat of 32 MiB
local MEMBERS = 4096 -- of the top level and of options; clients send 30
local DEPTH = 10000 -- as in encoding/json
local TEXT = 512 -- bytes of a name that the reader looks at; the longest known name has 126 when escaped
local TAIL = 4096 -- bytes of white space after the value, as in seal.lua

-- uncounted stops HAProxy from counting instructions until the next yield. HAProxy counts them to interrupt scripts
-- that run too long, which makes each one cost twice as much. This script yields by itself.
local uncounted = debug.sethook

local function set(names)
  local all = {}
  for name in names:gmatch("%S+") do
    all[name] = true
  end
  return all
end

local TOP = set(
  "model options keep_alive shift stream format response_format output_format text "
    .. "max_tokens max_completion_tokens max_output_tokens"
)
local OPTIONS = set("num_ctx num_predict num_gpu num_batch num_thread main_gpu use_mmap draft_num_predict")
-- These reload or unload the model for everybody. num_ctx is not among them: it may name the context that the model
-- has.
local RELOAD = set("num_gpu num_batch num_thread main_gpu use_mmap draft_num_predict keep_alive shift")
local STRUCTURE = set("format response_format output_format text")
-- The members that limit output tokens, by path. Ollama ignores max_completion_tokens, but OpenAI clients send it.
local LIMITS = {
  ["/v1/chat/completions"] = set("max_tokens max_completion_tokens"),
  ["/v1/completions"] = set("max_tokens"),
  ["/v1/responses"] = set("max_output_tokens"),
  ["/v1/messages"] = set("max_tokens"),
}
local NONE = {}

-- encoding/json uses the simple case folding of Unicode, in which two characters beyond ASCII fold to ASCII letters:
-- the Kelvin sign and the long s.
local function fold(name)
  name = lower(name)
  if find(name, "[\xe2\xc5]") then
    name = name:gsub("\u{212A}", "k"):gsub("\u{017F}", "s")
  end
  return name
end

local ESCAPES = { ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }

-- unescape decodes the inside of a JSON string. It returns nil for an invalid escape.
local function unescape(text)
  local out, at = {}, 1
  while true do
    local slash = find(text, "\\", at, true)
    if not slash then
      out[#out + 1] = sub(text, at)
      return table.concat(out)
    end
    out[#out + 1] = sub(text, at, slash - 1)
    local letter = sub(text, slash + 1, slash + 1)
    if letter == "u" then
      local hex = text:match("^%x%x%x%x", slash + 2)
      if not hex then
        return nil
      end
      local rune = tonumber(hex, 16)
      at = slash + 6
      if rune >= 0xD800 and rune <= 0xDFFF then
        local low = rune < 0xDC00 and tonumber(text:match("^\\u(%x%x%x%x)", at) or "0", 16)
        if low and low >= 0xDC00 and low <= 0xDFFF then
          rune = 0x10000 + (rune - 0xD800) * 0x400 + (low - 0xDC00)
          at = at + 6
        else
          rune = 0xFFFD -- half of a surrogate pair, as encoding/json decodes it
        end
      end
      out[#out + 1] = utf8.char(rune)
    elseif ESCAPES[letter] then
      out[#out + 1] = ESCAPES[letter]
      at = slash + 2
    else
      return nil
    end
  end
end

-- Fields of a reader: body, and its size; window, the current part of the body; at, the next byte in it; read, where in
-- the body the window ends; turn, the number of windows so far; steps and members, which count down; depth; error; and
-- what it found.

-- fill drops what was read and takes the next part of the body. It returns false at the end.
local function fill(r)
  local from, to = r.read, math.min(r.read + WINDOW, r.size)
  if from >= to then
    return false
  end
  r.windows = r.windows + 1
  if r.windows >= WINDOWS or r.rested - r.steps >= BURST then
    r.alive()
    core.yield()
    uncounted()
    r.windows, r.rested = 0, r.steps
  end
  local next = sub(r.body, from + 1, to)
  if r.at <= #r.window then
    next = sub(r.window, r.at) .. next
  end
  r.window, r.read, r.at, r.turn = next, to, 1, r.turn + 1
  return true
end

local function fail(r, error)
  r.error = r.error or error
  return nil
end

-- space moves to the next byte that is not white space and returns it, or nil at the end.
local function space(r)
  while true do
    local at = find(r.window, "[^ \t\n\r]", r.at)
    if at then
      r.at = at
      return byte(r.window, at)
    end
    r.at = #r.window + 1
    if not fill(r) then
      return nil
    end
  end
end

local RUN = string.rep("\\", 256)

-- escaped reports whether the byte after window[to] is escaped, which an odd number of backslashes before it does. It
-- counts each run of backslashes once.
local function escaped(window, from, to)
  local at = to
  while at >= from and byte(window, at) == 92 do
    at = at - 1
    if (to - at) % 256 == 0 then -- a long run
      while at - 255 >= from and sub(window, at - 255, at) == RUN do
        at = at - 256
      end
    end
  end
  return (to - at) % 2 == 1
end

-- skip_dense skips escaped quotes that follow each other closely, at C's speed. It starts at an escaped quote and stops
-- at the first quote after a byte other than a backslash, or the first after two backslashes. It searches for the next
-- one of each kind once per window. If quotes are far apart, searching for each quote is faster.
local function skip_dense(r, window, quote)
  if r.plain_turn ~= r.turn or r.plain < quote then
    r.plain, r.plain_turn = find(window, '[^\\]"', quote) or math.maxinteger, r.turn
  end
  if r.double_turn ~= r.turn or r.double < quote then
    r.double, r.double_turn = find(window, '\\\\"', quote, true) or math.maxinteger, r.turn
  end
  if r.plain < r.double then
    return r.plain + 1 -- this kind comes first
  end
  local run = r.double < math.maxinteger and r.double or #window + 1
  while run > quote + 1 and byte(window, run - 1) == 92 do
    run = run - 1
  end
  return run
end

local NEAR, DENSE = 8, 16 -- DENSE escaped quotes, each within NEAR bytes of the one before

-- skip_string moves from after an opening quote to after the closing one.
local function skip_string(r)
  local window, at, steps, near = r.window, r.at, r.steps, 0
  while true do
    local quote = find(window, '"', at, true)
    if not quote then
      -- Keep a backslash at the end of the window, because it belongs to the next byte.
      r.at, r.steps = escaped(window, at, #window) and #window or #window + 1, steps
      if not fill(r) then
        return fail(r, "not_json")
      end
      window, at = r.window, r.at
    else
      local second, first = byte(window, quote - 2, quote - 1)
      if not first then -- the window begins with the string
        second, first = nil, second
      end
      if quote == at or first ~= 92 or second == 92 and quote - 2 >= at and not escaped(window, at, quote - 1) then
        r.at, r.steps = quote + 1, steps
        return true
      end
      steps = steps - 1
      if steps < 0 then
        return fail(r, "too_complex")
      end
      near = quote - at < NEAR and near + 1 or 0
      at = near < DENSE and quote + 1 or skip_dense(r, window, quote)
    end
  end
end

-- skip_nested moves from after an opening bracket to after its closing one. It does not compare their kinds: if they do
-- not match, Go rejects the body.
local function skip_nested(r)
  local depth, outside = r.depth + 1, r.depth
  local window, at, steps = r.window, r.at, r.steps
  while true do
    local found = find(window, '["[-^{-~]', at) -- " [ \ ] ^ { | } ~: two ranges are faster than a list
    if found then
      local char = byte(window, found)
      at, steps = found + 1, steps - 1
      if steps < 0 then
        return fail(r, "too_complex")
      elseif char == 34 then
        local quote = find(window, '"', at, true)
        if quote and byte(window, quote - 1) ~= 92 then
          at = quote + 1
        else
          r.at, r.steps = at, steps
          if not skip_string(r) then
            return nil
          end
          window, at, steps = r.window, r.at, r.steps
        end
      elseif char == 91 or char == 123 then
        depth = depth + 1
        if depth > DEPTH then
          return fail(r, "too_deep")
        end
      elseif char == 93 or char == 125 then
        depth = depth - 1
        if depth == outside then
          r.at, r.steps = at, steps
          return true
        end
      else
        return fail(r, "not_json")
      end
    else
      r.at, r.steps = #window + 1, steps
      if not fill(r) then
        return fail(r, "not_json")
      end
      window, at = r.window, r.at
    end
  end
end

-- text reads from after an opening quote. It returns the decoded string, or false if it is too long to matter.
local function text(r)
  if #r.window - r.at < TEXT + 2 then
    fill(r)
  end
  local turn, from = r.turn, r.at
  if not skip_string(r) then
    return nil
  end
  if turn ~= r.turn or r.at - from > TEXT then
    return false
  end
  local raw = sub(r.window, from, r.at - 2)
  if not find(raw, "\\", 1, true) then
    return raw
  end
  return unescape(raw) or fail(r, "not_json")
end

-- scalar reads a number, true, false or null.
local function scalar(r)
  if #r.window - r.at < 64 then
    fill(r)
  end
  local found = find(r.window, "[,%]} \t\n\r]", r.at)
  local word = found and sub(r.window, r.at, found - 1) or ""
  if not found and r.read < r.size or #word > 64 then
    return fail(r, "too_complex") -- no client sends such a long number
  end
  if word ~= "true" and word ~= "false" and word ~= "null" and not find(word, "^-?%d+%.?%d*[eE]?[+-]?%d*$") then
    return fail(r, "not_json")
  end
  r.at = found
  return word
end

-- value reads the next value. It returns its kind, and the text of a scalar or (if wanted) of a string.
local function value(r, wanted)
  local char = space(r)
  if char == 34 then
    r.at = r.at + 1
    if not wanted then
      return skip_string(r) and "string"
    end
    local found = text(r)
    if found == nil then
      return nil
    end
    return "string", found
  elseif char == 123 or char == 91 then
    r.at = r.at + 1
    return skip_nested(r) and (char == 123 and "object" or "array")
  elseif char then
    local word = scalar(r)
    return word and "scalar", word
  end
  return fail(r, "not_json")
end

-- members reads from after a { to after its }, and calls each(r, name) before each value. name is nil for an unknown
-- member.
local function members(r, known, each)
  local seen = {}
  local char = space(r)
  if char == 125 then
    r.at = r.at + 1
    return true
  end
  while true do
    r.members = r.members - 1
    if char ~= 34 then
      return fail(r, "not_json")
    elseif r.members < 0 then
      return fail(r, "too_complex")
    end
    r.at = r.at + 1
    local name = text(r)
    if name == nil then
      return nil
    end
    if name then
      if known[name] then
        if seen[name] then
          return fail(r, "duplicate")
        end
        seen[name] = true
      elseif known[fold(name)] then
        return fail(r, "other_case")
      else
        name = nil
      end
    end
    if space(r) ~= 58 then
      return fail(r, "not_json")
    end
    r.at = r.at + 1
    if not each(r, name or nil) then
      return nil
    end
    char = space(r)
    r.at = r.at + 1
    if char == 125 then
      return true
    elseif char ~= 44 then
      return fail(r, "not_json")
    end
    char = space(r)
  end
end

-- limit records a limit of output tokens. A null or negative limit counts as none. 0 is invalid: it would mean an
-- endless answer.
local function limit(r, name, kind, word)
  local tokens = kind == "scalar" and word:match("^-?%d+$") and math.tointeger(tonumber(word))
  if not tokens or tokens == 0 then
    r.bad_limit = name
  elseif tokens > 0 then
    r.tokens = math.min(r.tokens or tokens, tokens, 1 << 31)
  end
  return true
end

local function option(r, name)
  local kind, word = value(r, name ~= nil)
  if not kind then
    return nil
  end
  if not name or word == "null" and kind == "scalar" then
    return true
  elseif name == "num_ctx" then
    r.num_ctx = kind == "scalar" and word or "?"
  elseif name == "num_predict" then
    return limit(r, "options.num_predict", kind, word)
  else
    r.refused = r.refused or "options." .. name
  end
  return true
end

local function options(r)
  if space(r) ~= 123 then
    local kind, word = value(r)
    return kind == "scalar" and word == "null" or fail(r, "not_json")
  end
  r.at, r.depth = r.at + 1, 2
  local ok = members(r, OPTIONS, option)
  r.depth = 1
  return ok
end

local function member(r, name)
  if name == "options" and r.native then
    return options(r)
  end
  local kind, word = value(r, name ~= nil)
  if not kind then
    return nil
  end
  if name == "model" then
    -- HAProxy's string matches end at a NUL, and the log must be text.
    if kind ~= "string" or not word or find(word, "%c") or not utf8.len(word) then
      return fail(r, "model_is_no_name")
    end
    r.model = word
  elseif not name or kind == "scalar" and word == "null" then
    return true
  elseif name == "stream" then
    r.stream = word == "true"
  elseif STRUCTURE[name] then
    r.structured = kind == "object" or kind == "string" and word ~= ""
  elseif r.limits[name] then
    return limit(r, name, kind, word)
  elseif RELOAD[name] and r.native then
    r.refused = r.refused or name
  end
  return true
end

-- read returns whether the body is accepted.
local function read(r)
  if space(r) ~= 123 then
    return fail(r, "no_object")
  end
  r.at = r.at + 1
  if not members(r, TOP, member) then
    return nil
  end
  local behind = r.size - r.read + #r.window - r.at + 1
  if space(r) then
    return fail(r, "trailing")
  elseif behind > TAIL then
    return fail(r, "too_complex")
  end
  return r.model ~= nil or fail(r, "no_model")
end

-- The reader of a large body in this thread, and when it last made progress: if its client leaves, a reader just stops.
local reading, seen = nil, 0

local function milliseconds()
  local now = core.now()
  return now.sec * 1000 + now.usec // 1000
end

-- Readers that wait for their turn, in order of arrival. Each holds the time when it was last seen.
local line = {}

local function await_turn()
  local own = {}
  table.insert(line, own)
  while true do
    local now = milliseconds()
    own.seen = now
    while line[1] ~= own and now - line[1].seen > 1000 do
      table.remove(line, 1)
    end
    if line[1] == own and (not reading or now - seen >= 1000) then
      table.remove(line, 1)
      return
    end
    core.msleep(2)
  end
end

local function nothing() end

core.register_action("read", { "http-req" }, function(txn)
  local size, path = txn.f:req_body_len(), txn.f:path()
  local native = find(path, "^/api/") ~= nil
  local r = {
    window = "", at = 1, read = 0, turn = 0, steps = STEPS, members = MEMBERS, depth = 1, alive = nothing,
    windows = 0, rested = STEPS,
    native = native, limits = LIMITS[path] or NONE, stream = native,
  }
  local large = size > LARGE
  if large then
    await_turn()
    reading, seen = r, milliseconds()
    r.alive = function()
      seen = milliseconds()
    end
    core.yield()
  end
  r.body = txn.f:req_body() or ""
  r.size = #r.body
  if large then
    core.yield()
  end
  uncounted()
  local ok = read(r)
  if large then
    r.body, r.window = nil, nil
    if reading == r then
      reading = nil
    end
    core.yield()
    collectgarbage("collect")
  end
  if not ok then
    txn:set_var("txn.body_error", r.error or "not_json")
    return
  end
  txn:set_var("txn.model", r.model)
  txn:set_var("txn.stream", r.stream)
  txn:set_var("txn.structured", r.structured or false)
  if r.num_ctx then
    txn:set_var("txn.num_ctx", r.num_ctx)
  end
  if r.tokens then
    txn:set_var("txn.asked_tokens", r.tokens)
  end
  if r.refused then
    txn:set_var("txn.refused", r.refused)
  end
  if r.bad_limit then
    txn:set_var("txn.bad_limit", r.bad_limit)
  end
  txn:set_var("txn.body_read", true)
end)
