-- purpose: moving a record from the entries it occupies to those it is to occupy
-- defines: by_place, merge_entries, add_entry, drop_entry, move_entries
-- include: lib/places.lua
-- include: lib/listing.lua
-- include: lib/unlisting.lua

-- Entry positions by the place they name; a place holds a record once.
local function by_place(entries)
  local places = {}
  for i = 1, #entries, 3 do
    places[entries[i] .. ' ' .. entries[i + 1]] = i
  end
  return places
end

-- The stored entries with those of the touched slots replaced by new ones, in the order that the client packs.
local function merge_entries(stored, fresh, touched)
  local replaced, triples, merged = {}, {}, {}
  for _, slot in ipairs(touched) do
    replaced[slot] = true
  end
  local function collect(entries, skip)
    for i = 1, #entries, 3 do
      if not (skip and replaced[entries[i]]) then
        triples[#triples + 1] = {entries[i], entries[i + 1], entries[i + 2]}
      end
    end
  end
  collect(stored, true)
  collect(fresh, false)
  table.sort(triples, function(a, b)
    if a[1] ~= b[1] then
      return a[1] < b[1]
    end
    return a[2] < b[2]
  end)
  for _, triple in ipairs(triples) do
    for _, value in ipairs(triple) do
      merged[#merged + 1] = value
    end
  end
  return merged
end

local function add_entry(model, entries, i, member, previous)
  local kind, key = place(model, entries, i)
  local lists = model.listed and model.listed[entries[i]]
  if kind == MEMBER then
    local inverse = previous and {'ZADD', key, previous, member} or {'ZREM', key, member}
    write(inverse, 'ZADD', key, entries[i + 2], member)
  else
    local owner = run('HGET', key, entries[i + 1])
    local inverse = owner and {'HSET', key, entries[i + 1], owner} or {'HDEL', key, entries[i + 1]}
    write(inverse, 'HSET', key, entries[i + 1], member)
  end
  if lists then
    list_value(lists, entries[i + 1])
  end
end

local function drop_entry(model, entries, i, member)
  local kind, key = place(model, entries, i)
  if kind == MEMBER then
    write({'ZADD', key, entries[i + 2], member}, 'ZREM', key, member)
  elseif run('HGET', key, entries[i + 1]) == member then
    write({'HSET', key, entries[i + 1], member}, 'HDEL', key, entries[i + 1])
  else
    return
  end
  unlist_value(model, entries[i], entries[i + 1], kind == MEMBER and key)
end

-- Additions come first: they are what can fail.
local function move_entries(model, before, old_member, after, new_member)
  local same = old_member == new_member
  local had, has = by_place(before), by_place(after)
  for id, i in pairs(has) do
    local j = same and had[id]
    if not j or before[j + 2] ~= after[i + 2] then
      add_entry(model, after, i, new_member, j and before[j + 2])
    end
  end
  for id, j in pairs(had) do
    if not same or not has[id] then
      drop_entry(model, before, j, old_member)
    end
  end
end
