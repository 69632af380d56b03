-- purpose: conditions on the records that references lead to
-- defines: targets_of
-- include: lib/driver.lua
-- include: lib/estimate.lua
-- include: lib/tree.lua
-- include: lib/view.lua
-- include: lib/walk.lua

-- A node {t = 'via', f, rel, m, n}: field f holds the key of a record of model m, which has to satisfy n; `rel` begins
-- the keys of the sets of who refers to a record. Records of m are told by their key, `m.class` and what n looks into.

-- Records looked at, and reached, when a query begins with those that satisfy n.
local MOST_TARGETS = 500

-- Keys of m that have changed while references still hold the earlier ones: earlier → present; nil where none has.
local function aliases(m)
  if m.moved == nil then
    m.moved = false
    local stored = redis.call('HGETALL', m.alias)
    for i = 1, #stored, 2 do
      m.moved = m.moved or {}
      m.moved[stored[i]] = cmsgpack.unpack(stored[i + 1]).key
    end
  end
  return m.moved or nil
end

-- Adds to the sets of a node those of who still refers to its records under their earlier keys.
function via.add_earlier(node)
  local wanted = {}
  for _, z in ipairs(node.z) do
    wanted[z] = true
  end
  for earlier, present in pairs(aliases(node) or {}) do
    if wanted[node.rel .. present] then
      table.insert(node.z, node.rel .. earlier)
    end
  end
end

-- Expired records that were not swept yet stand in indexes, though they are gone.
local function is_behind(m)
  if m.due == nil then
    m.due = #redis.call('ZRANGEBYSCORE', m.exp, '-inf', tree.now, 'LIMIT', 0, 1) > 0
  end
  return m.due
end

-- Those of some keys (at most some hundred) that are records of m and satisfy n.
local function satisfying(node, keys)
  local names = {}
  for name in pairs(node.view and {} or node.fields) do
    names[#names + 1] = name
  end
  node.view = node.view or view_of(names)
  local inner = node.view
  local found = tree.filter({t = 'any', z = {node.m.class}}, keys, inner)
  if is_behind(node.m) then
    found = such(found, function(key) return inner.value(key, '$') end)
  end
  found = tree.filter(node.n, found, inner)
  tree.view.spent, inner.spent = tree.view.spent + inner.spent, 0
  return found
end

function via.filter(node, members, view)
  node.known = node.known or {}
  local moved, targets, unknown = aliases(node.m), {}, {}
  for i, member in ipairs(members) do
    local key = view.value(member, node.f)
    key = key and moved and moved[key] or key
    targets[i] = key
    if key and node.known[key] == nil then
      node.known[key] = false
      unknown[#unknown + 1] = key
    end
  end
  if #unknown > 0 then
    for _, key in ipairs(satisfying(node, unknown)) do
      node.known[key] = true
    end
  end
  local passing = {}
  for i, member in ipairs(members) do
    if targets[i] and node.known[targets[i]] then
      passing[#passing + 1] = member
    end
  end
  return passing
end

-- The keys that satisfying records are referred to by, nil where it takes too much to find them.
local function targets_of(node)
  if node.found ~= nil then
    return node.found or nil
  end
  node.found = false
  if estimate.size(node.n, node.m) > MOST_TARGETS then
    return nil
  end
  local earlier, found = {}, {}
  for key, present in pairs(aliases(node.m) or {}) do
    earlier[present] = earlier[present] or {}
    table.insert(earlier[present], key)
  end
  for _, source in ipairs(driver.sources(node.n, node.m, {list = {}, made = 0})) do
    local position = walk.open(source)
    while position.next < position.stop do
      for _, key in ipairs(satisfying(node, walk.take(position, MOST_TARGETS, tree.view))) do
        found[key] = true
      end
    end
  end
  local keys = {}
  for key in pairs(found) do
    keys[#keys + 1] = key
    for _, before in ipairs(earlier[key] or {}) do
      keys[#keys + 1] = before
    end
  end
  table.sort(keys)
  node.found = keys
  return keys
end

via.targets = targets_of
