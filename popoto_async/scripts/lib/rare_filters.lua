-- purpose: filters by conditions that few queries have
-- defines: rare_filters
-- include: lib/tree.lua
-- include: lib/view.lua

local rare_filters = {}

function rare_filters.all(_, members)
  return members
end

function rare_filters.none()
  return {}
end

-- A text of the key is compared there, any other where it is stored.
function rare_filters.text(node, members, view)
  view.spent = view.spent + COST.walk * #members
  local texts = later.texts
  return later.such(members, function(member)
    if node.part then
      return texts.holds_escaped(node, texts.part(member, node.base, node.part))
    end
    return texts.holds(node, view.value(member, node.f))
  end)
end

function rare_filters.keyed(node, members)
  return later.such(members, function(member) return member:sub(1, #node.p) == node.p end)
end

function rare_filters.keys(node, members)
  node.set = node.set or later.set_of(node.k)
  return later.such(members, function(member) return node.set[member] end)
end

function rare_filters.claim(node, members)
  node.set = node.set or later.set_of(later.owners_of(node))
  return later.such(members, function(member) return node.set[member] end)
end

local function in_area(node, members, view)
  view.spent = view.spent + COST.measure * #members
  local holds = later.geo.holds
  return later.such(members, function(member)
    local text = view.value(member, node.f)
    return text and holds(node, text)
  end)
end

rare_filters.near = in_area
rare_filters.box = in_area

-- The operands of a list, to be looked up: texts, and for numbers the texts of each double that stands for some.
local function known_of(node)
  local known = {}
  for _, at in ipairs(node.v) do
    local text = ARGV[tree.at + at]
    if later.comparable(node.c, text) then
      local place = node.c == 'number' and tonumber(text) or text
      known[place] = known[place] or {}
      table.insert(known[place], text)
    end
  end
  return known
end

local function is_known(node, value, compare)
  for _, text in ipairs(node.known[node.c == 'number' and tonumber(value) or value] or {}) do
    if compare(value, text) == 0 then
      return true
    end
  end
  return false
end

-- A missing value is null: equal to nothing, so different from everything, and without a place in any order. What is no
-- value of its type compares alike.
function rare_filters.stored(node, members, view)
  local compare, verdict = later.comparisons[node.c], later.verdicts[node.op]
  if node.op == 'in' then
    node.known = node.known or known_of(node)
  end
  return later.such(members, function(member)
    local value = view.value(member, node.f)
    if node.op == 'null' then
      return not value
    elseif not later.comparable(node.c, value) then
      return node.op == 'ne'
    end
    if node.op == 'in' then
      return is_known(node, value, compare)
    end
    return verdict(compare(value, ARGV[tree.at + node.v[1]]))
  end)
end

function rare_filters.points(node, members, view)
  if not node.set then
    node.set = {}
    for _, score in ipairs(node.s) do
      node.set[tonumber(score)] = true
    end
  end
  local at = {}
  for i, score in ipairs(later.scores_of(node.z, members, view)) do
    at[members[i]] = score and node.set[tonumber(score)]
  end
  return later.such(members, function(member) return at[member] end)
end

function rare_filters.among(node, members, view)
  return rare_filters.stored(node.s, members, view)
end

rare_filters['or'] = function(node, members, view)
  return later.either(members, node.n, later.filter, view)
end

rare_filters.via = function(node, members, view) return later.via.filter(node, members, view) end
