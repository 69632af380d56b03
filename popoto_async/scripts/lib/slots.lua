-- purpose: the slots of a model's indexes, which have to be those on the server
-- defines: slots_differ, register_slots, not_built
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

local function register_slots(model)
  local known = run('GET', model.slots)
  if known ~= model.unregistered then
    write(known and {'SET', model.slots, known} or {'DEL', model.slots}, 'SET', model.slots, model.unregistered)
  end
end

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
