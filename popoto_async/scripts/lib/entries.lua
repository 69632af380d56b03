-- purpose: moving a record from the entries it occupies to those it is to occupy
-- defines: MEMBER, indexes, place, by_place, merge_entries, claim_conflict, move_entries, add_entry, drop_entry
-- include: lib/listing.lua

local MEMBER = 'm'

-- The kind of each slot, the key, or beginning of a key, that stands for it, and the keys of the lists of its tails;
-- taken apart once in a call. A `group` are the indexes that share a list, and the mirror that one of them has: those of
-- a field which had another index before.
local function indexes(model)
  local found, groups = {}, {}
  for i, line in ipairs(model.table) do
    local kind, key, list, mirror = line:match('^(.)([^\t]*)\t?([^\t]*)\t?([^\t]*)$')
    local index = {kind = kind, key = key}
    found[i - 1] = index
    if list ~= '' then
      index.list, index.mirror, index.group = list, mirror ~= '' and mirror, groups[list] or {}
      groups[list] = index.group
      index.group[#index.group + 1] = index
      index.group.mirror = index.mirror or index.group.mirror
    end
  end
  model.indexes = found
  return found
end

-- Entries are flat: {slot, tail, score, slot, tail, score, …}. Kind and key of the entry at position i.
local function place(model, entries, i)
  local index = (model.indexes or indexes(model))[entries[i]]
  if index.kind == MEMBER then
    return MEMBER, index.key .. entries[i + 1]
  end
  return index.kind, index.key
end

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

-- The first claim that a living record other than this one holds: its slot, tail and owner. A strict claim (`k`) is lost
-- to another record under the same key too, whether this one is new or comes from elsewhere.
local function claim_conflict(model, entries, key, from, inserting)
  for i = 1, #entries, 3 do
    local index = (model.indexes or indexes(model))[entries[i]]
    if index.kind ~= MEMBER then
      local owner = run('HGET', index.key, entries[i + 1])
      local own = owner == from or (owner == key and index.kind ~= 'k')
      if owner and (not own or (index.kind == 'k' and inserting)) and redis.call('EXISTS', owner) == 1 then
        return entries[i], entries[i + 1], owner
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
  listing.add(model.indexes[entries[i]], entries[i + 1])
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
  listing.drop(model.indexes[entries[i]], entries[i + 1], kind == MEMBER and key)
end

-- Additions come first: they are what can fail.
local function move_entries(model, before, old_member, after, new_member)
  if #before == 0 then
    for i = 1, #after, 3 do
      add_entry(model, after, i, new_member)
    end
    return
  end
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
