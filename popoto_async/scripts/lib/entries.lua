-- purpose: the entries that a record occupies
-- defines: MEMBER, place, claim_conflict, add_entry, add_entries
-- include: lib/listing.lua

local MEMBER = 'm'

-- Entries are flat: {slot, tail, score, slot, tail, score, …}. Kind and key of the entry at position i: of each slot
-- the model says the key, or beginning of a key, that stands for it, and the kind, unless it holds members.
local function place(model, entries, i)
  local slot = entries[i]
  local kind, key = model.kinds[slot], model.places[slot + 1]
  if kind then
    return kind, key
  end
  return MEMBER, key .. entries[i + 1]
end

-- The first claim that a living record other than this one holds: its slot, tail and owner. A strict claim (`k`) is lost
-- to another record under the same key too, whether this one is new or comes from elsewhere.
local function claim_conflict(model, entries, key, from, inserting)
  local kinds = model.kinds
  if next(kinds) == nil then
    return nil
  end
  for i = 1, #entries, 3 do
    local slot, tail = entries[i], entries[i + 1]
    local kind = kinds[slot]
    if kind then
      local owner = run('HGET', model.places[slot + 1], tail)
      local own = owner == from or (owner == key and kind ~= 'k')
      if owner and (not own or (kind == 'k' and inserting)) and redis.call('EXISTS', owner) == 1 then
        return slot, tail, owner
      end
    end
  end
end

local function add_entry(model, entries, i, member, previous)
  local kind, key = place(model, entries, i)
  if kind == MEMBER then
    local inverse = previous and {'ZADD', key, previous, member} or {'ZREM', key, member}
    write(inverse, 'ZADD', key, entries[i + 2], member)
  else
    local owner = run('HGET', key, entries[i + 1])
    local inverse = owner and {'HSET', key, entries[i + 1], owner} or {'HDEL', key, entries[i + 1]}
    write(inverse, 'HSET', key, entries[i + 1], member)
  end
  listing.add(model.listed[entries[i]], entries[i + 1])
end

-- Adds the entries of a record that had none. What takes them back is worked out only if it has to be.
local function add_entries(model, entries, member)
  local kinds, places, listed, added = model.kinds, model.places, model.listed, 0
  undo[#undo + 1] = function()
    for i = 1, added, 3 do
      if not kinds[entries[i]] then
        redis.pcall('ZREM', places[entries[i] + 1] .. entries[i + 1], member)
      end
    end
  end
  for i = 1, #entries, 3 do
    local slot, tail = entries[i], entries[i + 1]
    if kinds[slot] then
      add_entry(model, entries, i, member)
    else
      run('ZADD', places[slot + 1] .. tail, entries[i + 2], member)
      added = i
      if listed[slot] then
        listing.add(listed[slot], tail)
      end
    end
  end
end
