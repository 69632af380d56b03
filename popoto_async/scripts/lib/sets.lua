-- purpose: the members of one of many sets in key order, from where an earlier look stopped
-- defines: members_after
-- include: lib/commands.lua

-- The members of a sorted set with scores 0 after one of them (false: from the beginning), at most `count`: in the
-- direction of the source that the set belongs to, within the span of keys that the source is wanted for.
local function members_after(z, source, after, count)
  local span = source.span or {}
  local first, last = after or span.from, span.to
  first, last = first and '(' .. first, last and '(' .. last
  if source.desc then
    return redis.call('ZREVRANGEBYLEX', z, first or '+', last or '-', 'LIMIT', 0, count)
  end
  return redis.call('ZRANGEBYLEX', z, first or '-', last or '+', 'LIMIT', 0, count)
end
