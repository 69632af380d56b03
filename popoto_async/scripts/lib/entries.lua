-- purpose: a new record in its places
-- defines: add_record
-- include: lib/listing.lua
-- include: lib/writes.lua

-- Adds a record that stood nowhere to its class and to all that its entries say (`lib/places.lua`).
local function add_record(model, entries, key)
  local kinds, places, listed = model.kinds, model.places, model.listed
  undo[#undo + 1] = {entries = entries, model = model, key = key}
  blamed = model.class
  redis.call('ZADD', blamed, '0', key)
  for i = 1, #entries, 3 do
    local slot, tail = entries[i], entries[i + 1]
    local place = places[slot + 1]
    if kinds and kinds[slot] then
      local owner = run('HGET', place, tail)
      write(owner and {'HSET', place, tail, owner} or {'HDEL', place, tail}, 'HSET', place, tail, key)
    else
      blamed = place .. tail
      redis.call('ZADD', blamed, entries[i + 2], key)
    end
    if listed and listed[slot] then
      list_value(listed[slot], tail)
    end
  end
end
