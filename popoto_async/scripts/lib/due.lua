-- purpose: whether records of a model have expired and were not swept yet
-- defines: has_due
-- include: lib/writes.lua

local function has_due(model, now)
  return #run('ZRANGEBYSCORE', model.exp, '-inf', now, 'LIMIT', 0, 1) > 0
end
