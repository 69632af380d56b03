-- purpose: whether records of a model have expired and were not swept yet
-- defines: has_due
-- include: lib/writes.lua

local function has_due(model, now)
  return run('ZCOUNT', model.exp, '-inf', now) > 0
end
