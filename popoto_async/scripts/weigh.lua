-- purpose: the size of keys
-- keys: any of one model
-- args: op.n keys at op.at
-- reply: ok, for each key: members bytes (0 0 where there is none)

local sizes = {zset = 'ZCARD', hash = 'HLEN', list = 'LLEN', set = 'SCARD', stream = 'XLEN', string = 'STRLEN'}

operations.weigh = function(_, op)
  local found = {}
  for i = op.at, op.at + op.n - 1 do
    local size = sizes[redis.call('TYPE', ARGV[i]).ok]
    found[#found + 1] = {size and redis.call(size, ARGV[i]) or 0, redis.call('MEMORY', 'USAGE', ARGV[i]) or 0}
  end
  return {'ok', found}
end
