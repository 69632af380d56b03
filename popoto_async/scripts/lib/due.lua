-- purpose: whether records of a model have expired and were not swept yet
-- defines: has_due
-- include: lib/clock.lua
-- include: lib/writes.lua

local function has_due(call, model)
  local first = run('ZRANGE', model.exp, '0', '0', 'WITHSCORES')
  return first[2] ~= nil and tonumber(first[2]) <= now_of(call)
end
