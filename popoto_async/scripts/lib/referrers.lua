-- purpose: changing records because of what they refer to
-- defines: MOST_REFERRERS, slot_of, names_of, refer, refer_later, referred, settle_references, remember_hash, unheard, tell_deleted
-- include: lib/claims.lua
-- include: lib/clock.lua
-- include: lib/expiry.lua
-- include: lib/streams.lua

-- A graph is a list of nodes {m = model, name, refs}, the first for the record in question. Each of `refs` is a relation
-- that leads to the node's records: {n = node of the records that refer, rel, f, act, parts}; `parts` says where the key
-- stands in entries: {line of the slot table, which part of the tail (0: all of it), whether null has no entry}.

-- Records changed in one call because they refer to another: about 25 µs each.
local MOST_REFERRERS = 200

-- The slots are those on the server: what a client has planned says nothing about the models of other operations.
local function slot_of(m, line)
  if not m.slot then
    m.places, m.kinds, m.listed, m.slot, m.beside = {}, {}, {}, {}, {}
    local slots = (run('GET', m.slots) or ''):gsub('\n\n.*', '')
    for known in slots:gmatch('[^\n]+') do
      local slot, kind, key, lists = #m.places, known:match('^(.)([^\t]*)(.*)$')
      m.places[slot + 1], m.slot[kind .. key] = key, slot
      if kind ~= MEMBER then
        m.kinds[slot] = kind
      end
      if BESIDE[kind] then
        m.beside[#m.beside + 1] = slot
      end
      for list in lists:gmatch('[^\t]+') do
        m.listed[slot] = m.listed[slot] or {}
        table.insert(m.listed[slot], list)
      end
    end
  end
  return m.slot[line]
end

-- The keys under which records refer to one: its own, and earlier ones that were not replaced everywhere yet.
local function names_of(node, key)
  if not node.earlier then
    node.earlier = {}
    local stored = run('HGETALL', node.alias)
    for i = 1, #stored, 2 do
      local present = cmsgpack.unpack(stored[i + 1]).key
      node.earlier[present] = node.earlier[present] or {}
      table.insert(node.earlier[present], stored[i])
    end
  end
  return {key, unpack(node.earlier[key] or {})}
end

local function replaced_part(tail, number, text)
  local parts = {}
  for part in (tail .. ':'):gmatch('(.-):') do
    parts[#parts + 1] = part
  end
  parts[number] = text
  return table.concat(parts, ':')
end

-- The entries of a record that comes to refer to `to` {key, part}, or to nothing where `to.key` is false.
local function referred(m, ref, entries, to)
  local fresh, touched = {}, {}
  for _, where in ipairs(ref.parts) do
    local slot = slot_of(m, where[1])
    touched[#touched + 1] = slot
    for i = 1, #entries, 3 do
      if entries[i] == slot and (to.key or where[3] == 0) then
        local tail = where[2] == 0 and (to.key or to.part) or replaced_part(entries[i + 1], where[2], to.part)
        fresh[#fresh + 1], fresh[#fresh + 2], fresh[#fresh + 3] = slot, tail, entries[i + 2]
      end
    end
  end
  return merge_entries(entries, fresh, touched)
end

-- Moves a record to the entries it has when it refers to something else. Its hash is changed by `settle_references`,
-- when nothing can fail any more: `later` collects what is to be done there. The result is false where there is no
-- such record, and an outcome where somebody else has a claim that it comes to.
local function refer_later(later, m, ref, key, to)
  slot_of(m, '')
  local change = later[key]
  if not change then
    local old, foreign = read_manifest(m, key)
    if foreign or not old.mark then
      return false
    end
    change = {m = m, old = old, sets = {}}
  end
  local before = cmsgpack.unpack(change.old.text)
  local after = referred(m, ref, before, to)
  local slot, tail, owner = claim_conflict(m, after, key, key, false)
  if slot then
    return {'unique', slot, tail, owner, false}
  end
  if not later[key] then
    later[key] = change
    later[#later + 1] = key
  end
  move_entries(m, before, key, after, key)
  local text = cmsgpack.pack(after)
  local mark = store_manifest(m, key, change.old, text, run('ZSCORE', m.exp, key))
  change.old = {mark = mark, text = text, companion = mark == '' and text}
  change.sets[ref.f] = to.key
  return true
end

local function settle_references(later, call)
  for _, key in ipairs(later) do
    local change = later[key]
    redis.call('HSET', key, '$', change.old.mark)
    for field, value in pairs(change.sets) do
      if value then
        redis.call('HSET', key, field, value)
      else
        redis.call('HDEL', key, field)
      end
    end
    local version
    if change.m.versioned then
      version = redis.call('HGET', key, '$v')
      if not change.versioned_already then
        version = string.format('%.0f', version and tonumber(version) + 1 or micros_of(call))
        redis.call('HSET', key, '$v', version)
      end
    end
    local stream = streams(change.m)
    if stream then
      stream.changed(call, change.m, key, version, change.sets)
    end
  end
end

-- The same at once, for one record by itself.
local function refer(call, m, ref, key, to)
  local later = {}
  local done = refer_later(later, m, ref, key, to)
  settle_references(later, call)
  undo = {}
  return done
end

-- The outcome that tells of a stream whose key holds something else, if there is one.
local function unheard(graph)
  for _, node in ipairs(graph) do
    local stream = streams(node.m)
    local refusal = stream and stream.refusal(node.m)
    if refusal then
      return refusal
    end
  end
end

local function tell_deleted(call, m, key)
  local stream = streams(m)
  if stream then
    stream.deleted(call, m, key)
  end
end

-- What brings a hash, and what stands beside it, back as it was, for operations of a transaction.
local function remember_hash(m, key)
  local copy, deadline = redis.call('DUMP', key), run('ZSCORE', m.exp, key)
  if copy then
    undo[#undo + 1] = {'RESTORE', key, deadline or '0', copy, 'REPLACE', 'ABSTTL'}
  end
  hold_besides(m, key, deadline)
end
