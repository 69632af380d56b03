-- purpose: conditions on the records that references lead to
-- defines: via
-- include: lib/clock.lua
-- include: lib/tree.lua
-- include: lib/view.lua

local via = {}

-- A node {t = 'via', f, rel, m, n}: field f holds the key of a record of model m, which has to satisfy n; `rel` begins
-- the keys of the sets of who refers to a record. Records of m are told by their key, `m.class` and what n looks into.

-- Keys of m that have changed while references still hold the earlier ones: earlier → present; nil where none has.
function via.aliases(m)
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
  for earlier, present in pairs(via.aliases(node) or {}) do
    if wanted[node.rel .. present] then
      table.insert(node.z, node.rel .. earlier)
    end
  end
end

-- Expired records that were not swept yet stand in indexes, though they are gone.
local function is_behind(m)
  if m.due == nil then
    m.due = #redis.call('ZRANGEBYSCORE', m.exp, '-inf', now_of(tree.call), 'LIMIT', 0, 1) > 0
  end
  return m.due
end

-- What is read of records of m for n. What it costs is paid for by the query.
function via.view(node)
  if not node.view then
    node.view = view_of(node.fields)
  end
  return node.view
end

function via.charge(view)
  tree.view.spent, view.spent = tree.view.spent + view.spent, 0
end

-- Those of some records of m that are not expired.
function via.alive(node, keys, view)
  if #keys > 0 and is_behind(node.m) then
    return later.such(keys, function(key) return view.value(key, '$') end)
  end
  return keys
end

-- Those of some keys (at most some hundred) that are records of m and satisfy n.
function via.satisfying(node, keys)
  local view = via.view(node)
  local found = later.filter({t = 'any', z = {node.m.class}}, keys, view)
  found = later.filter(node.n, via.alive(node, found, view), view)
  via.charge(view)
  return found
end

function via.filter(node, members, view)
  node.known = node.known or {}
  local moved, targets, unknown = via.aliases(node.m), {}, {}
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
    for _, key in ipairs(via.satisfying(node, unknown)) do
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
