-- purpose: whether indexes hold every record
-- defines: not_built
-- include: lib/writes.lua

-- The outcome of an operation that relies on indexes which don't hold every record. What it relies on is a list of
-- {slot table, class, definition, …}: the definitions have to be among what the slot table says of its indexes.
local function not_built(relies)
  for _, one in ipairs(relies) do
    local said = (run('GET', one[1]) or '') .. '\n'
    for i = 3, #one do
      if not said:find('\n' .. one[i] .. '\n', 1, true) and redis.call('ZCARD', one[2]) > 0 then
        return {'unbuilt', one[i]}
      end
    end
  end
end
