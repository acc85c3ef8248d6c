-- Tells the files below when a request ends, however it ends: one filter for all of them, since each filter costs every request some 50 µs.
--
-- Loaded once for all threads, before those that use it.

Ended = {} -- functions of the transaction, the channel that ends (there are two), and when the request began

local Filter = { id = "ended", flags = filter.FLT_CFG_FL_HTX }
Filter.__index = Filter

function Filter:new()
  return setmetatable({ began = core.now() }, Filter)
end

function Filter:end_analyze(txn, channel)
  for _, tell in ipairs(Ended) do
    tell(txn, channel, self.began)
  end
end

core.register_filter("ended", Filter, function(class)
  return class
end)
