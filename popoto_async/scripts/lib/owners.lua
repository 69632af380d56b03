-- purpose: who holds some claims
-- defines: owners_of
-- include: lib/commands.lua

local MOST_ARGUMENTS = 1000

-- The owners of claims: keys that may no longer be records.
local function owners_of(node)
  local owners = {}
  for first = 1, #node.v, MOST_ARGUMENTS do
    local last = math.min(first + MOST_ARGUMENTS - 1, #node.v)
    for _, owner in ipairs(redis.call('HMGET', node.h, unpack(node.v, first, last))) do
      owners[#owners + 1] = owner or nil
    end
  end
  return owners
end
