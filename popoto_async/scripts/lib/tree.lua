-- purpose: the condition of a select, made ready to be looked at
-- defines: tree
-- include: lib/view.lua

-- `at`: where the values of the operation under way begin in ARGV. `call`: the call, for its clock. `view`: what pays for
-- what is read of other models.
local tree = {at = 0}

local reads_records = {stored = true, text = true, near = true, box = true, via = true, among = true}

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
    later.via.add_earlier(node)
  end
  if node.t == 'not' then
    tree.prepare(node.n, fields)
    node.reads, node.weight = node.n.reads, node.n.weight
  elseif node.t == 'among' then
    tree.prepare(node.n, fields)
    fields[node.s.f] = true
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
