-- purpose: the slots of a model's indexes, which have to be those on the server
-- defines: slots_differ
-- include: lib/writes.lua

-- The outcome that tells the slots on the server, where the call was planned on others. Those of a call that only adds
-- to them are right, and registered with the first record that may need them.
local function slots_differ(model)
  local known = run('GET', model.slots) or ''
  if known == model.text then
    return false
  elseif known == model.was then
    -- Of a class that has records, a new index holds none of them before it is rebuilt.
    model.unregistered = model.late and redis.call('ZCARD', model.class) > 0 and model.late or model.text
    return false
  end
  return {'slots', known}
end
