-- purpose: which of some record keys satisfy a condition, a chunk of keys at a time
-- defines: tree, via, such
-- include: lib/geo.lua
-- include: lib/range.lua
-- include: lib/texts.lua
-- include: lib/view.lua

-- `at`: where the values of the operation under way begin in ARGV. `now`: the time of the call in ms. `view`: what pays
-- for what is read of other models.
local tree = {at = 0, now = 0}

-- What follows references; `lib/via.lua` fills it.
local via = {}

local MOST_ARGUMENTS = 1000

-- The members for which `holds` is true, in their order. All filters here keep it.
local function such(members, holds)
  local passing = {}
  for i = 1, #members do
    if holds(members[i]) then
      passing[#passing + 1] = members[i]
    end
  end
  return passing
end

-- The members that pass at least one of several filters; each is asked only about those that no other let through.
local function either(members, options, passing_one, view)
  local found, left = {}, members
  for _, option in ipairs(options) do
    if #left == 0 then
      break
    end
    view.spent = view.spent + COST.walk * #left
    for _, member in ipairs(passing_one(option, left, view)) do
      found[member] = true
    end
    left = such(left, function(member) return not found[member] end)
  end
  return such(members, function(member) return found[member] end)
end

local function in_zset(z, members, view)
  local passing = {}
  for i, score in ipairs(scores_of(z, members, view)) do
    if score then
      passing[#passing + 1] = members[i]
    end
  end
  return passing
end

local function set_of(list)
  local set = {}
  for _, item in ipairs(list) do
    set[item] = true
  end
  return set
end

local function in_area(node, members, view)
  view.spent = view.spent + COST.measure * #members
  return such(members, function(member)
    local text = view.value(member, node.f)
    return text and geo.holds(node, text)
  end)
end

-- The owners of claims: keys that may no longer be records.
function tree.owners(node)
  local owners = {}
  for first = 1, #node.v, MOST_ARGUMENTS do
    local last = math.min(first + MOST_ARGUMENTS - 1, #node.v)
    for _, owner in ipairs(redis.call('HMGET', node.h, unpack(node.v, first, last))) do
      owners[#owners + 1] = owner or nil
    end
  end
  return owners
end

local filters = {}

function filters.all(_, members)
  return members
end

function filters.none()
  return {}
end

function filters.any(node, members, view)
  if #node.z == 1 then
    return in_zset(node.z[1], members, view)
  end
  return either(members, node.z, in_zset, view)
end

function filters.range(node, members, view)
  view.spent = view.spent + 2 * COST.probe * #members
  return range.filter(node, members, view)
end

-- A text of the key is compared there, any other where it is stored.
function filters.text(node, members, view)
  view.spent = view.spent + COST.walk * #members
  return such(members, function(member)
    if node.part then
      return texts.holds_escaped(node, texts.part(member, node.base, node.part))
    end
    return texts.holds(node, view.value(member, node.f))
  end)
end

function filters.keyed(node, members)
  return such(members, function(member) return member:sub(1, #node.p) == node.p end)
end

function filters.keys(node, members)
  node.set = node.set or set_of(node.k)
  return such(members, function(member) return node.set[member] end)
end

function filters.claim(node, members)
  node.set = node.set or set_of(tree.owners(node))
  return such(members, function(member) return node.set[member] end)
end

filters.near = in_area
filters.box = in_area

-- A missing value is null: equal to nothing, so different from everything, and without a place in any order.
function filters.stored(node, members, view)
  local compare, verdict = comparisons[node.c], verdicts[node.op == 'in' and 'eq' or node.op]
  return such(members, function(member)
    local value = view.value(member, node.f)
    if not value or node.op == 'null' then
      return not value and (node.op == 'null' or node.op == 'ne')
    end
    for _, at in ipairs(node.v) do
      if verdict(compare(value, ARGV[tree.at + at])) then
        return true
      end
    end
    return false
  end)
end

filters['and'] = function(node, members, view)
  for _, child in ipairs(node.n) do
    members = tree.filter(child, members, view)
  end
  return members
end

filters['or'] = function(node, members, view)
  return either(members, node.n, tree.filter, view)
end

filters['not'] = function(node, members, view)
  local without = set_of(tree.filter(node.n, members, view))
  return such(members, function(member) return not without[member] end)
end

-- The members (at most some hundred) that satisfy the node.
function tree.filter(node, members, view)
  if #members == 0 then
    return members
  end
  local passing = filters[node.t](node, members, view)
  node.asked, node.passed = (node.asked or 0) + #members, (node.passed or 0) + #passing
  return passing
end

filters.via = function(node, members, view) return via.filter(node, members, view) end

local reads_records = {stored = true, text = true, near = true, box = true, via = true}

-- The look-ups that reading a text takes as long as, which a list of the texts would save.
local READ_TEXT = 4

-- Prepares a tree for filtering: combinations of the same kind in one another become one, and in each the conditions
-- that read records come last. Leaves on each node its `weight`, the look-ups that a record takes, and adds the fields
-- that may be read to `fields` (a set).
function tree.prepare(node, fields)
  node.reads, node.weight = (reads_records[node.t] and not node.part) or false, node.t == 'any' and #node.z or 1
  if node.t == 'text' and node.reads then
    node.weight = READ_TEXT
  end
  if node.f then
    fields[node.f] = true
  end
  if node.alias then
    via.add_earlier(node)
  end
  if node.t == 'not' then
    tree.prepare(node.n, fields)
    node.reads, node.weight = node.n.reads, node.n.weight
  elseif node.t == 'via' then
    node.fields = {['$'] = true}
    tree.prepare(node.n, node.fields)
    node.weight = 3 + node.n.weight
  elseif node.n then
    local first, last = {}, {}
    for _, child in ipairs(node.n) do
      tree.prepare(child, fields)
      for _, part in ipairs(child.t == node.t and child.n or {child}) do
        table.insert(part.reads and last or first, part)
      end
    end
    node.reads, node.weight = #last > 0, 0
    for _, part in ipairs(last) do
      first[#first + 1] = part
    end
    for _, part in ipairs(first) do
      node.weight = node.weight + part.weight
    end
    node.n = first
  end
end
