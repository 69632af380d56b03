-- purpose: ranges of which a score can stand for several values, decided on the stored ones
-- defines: exact

local exact = {}

local function satisfies(node, value)
  for _, condition in ipairs(node.x) do
    if not later.verdicts[condition[1]](later.comparisons[node.c](value, condition[2])) then
      return false
    end
  end
  return true
end

-- Whether members whose score is a bound of the range are in it. Those outside the tie set are told apart by their
-- score alone, so the stored value of one decides for all.
function exact.decide(node, members, scores, view)
  local decided, ties = {}, redis.call('ZMSCORE', node.tie, unpack(members))
  node.settled = node.settled or {}
  for i, member in ipairs(members) do
    local known = node.settled[scores[member]]
    if ties[i] or known == nil then
      local value = later.comparable(node.c, view.value(member, node.f))
      known = value and satisfies(node, value)
      if value and not ties[i] then
        node.settled[scores[member]] = known
      end
    end
    decided[member] = known
  end
  return decided
end
