-- purpose: walking a source by rank
-- defines: walk
-- include: lib/commands.lua

local walk = {}

-- A bound seen from its other side: where `5` ends, `(5` begins.
local function beyond(bound)
  return bound:match('^%((.*)$') or '(' .. bound
end

-- The ranks of the members whose scores are in the bounds: the first, and the one after the last. `size` is how many these
-- are, where it is known.
local function score_ranks(source)
  local z, desc, size = source.z, source.desc, source.size
  local from, to, least, most, first = source.lo, source.hi, '-inf', '+inf', 0
  if desc then
    from, to, least, most = to, from, most, least
  end
  -- Only what is open at its own end needs no look: everything may stand at an infinity.
  if from and from ~= least and size ~= 0 then
    first = desc and redis.call('ZCOUNT', z, beyond(from), '+inf') or redis.call('ZCOUNT', z, '-inf', beyond(from))
  end
  if size then
    return first, first + size
  elseif not to or to == most then
    return first, redis.call('ZCARD', z)
  end
  return first, desc and redis.call('ZCOUNT', z, to, '+inf') or redis.call('ZCOUNT', z, '-inf', to)
end

-- A position in a source: its members of rank `next` (from 0, in its own direction) up to, without, `stop` are to come.
function walk.open(source, at)
  if source.list then
    return {source = source, next = at and at.rank or 0, stop = #source.list}
  end
  if source.values then
    return later.values.open(source, at)
  elseif source.through then
    return later.targets.open(source, at)
  end
  local first, stop
  if source.lex then
    first, stop = later.ranks.lex(source)
  elseif source.span then
    first, stop = later.ranks.span(source)
  else
    first, stop = score_ranks(source)
  end
  return {source = source, next = at and math.max(first, later.ranks.after(source, at, first, stop)) or first, stop = stop}
end

-- The next members, at most `count`.
function walk.take(position, count, view)
  local source, first = position.source, position.next
  if source.values then
    return later.values.take(position, count, view)
  elseif source.through then
    return later.targets.take(position, count, view)
  end
  local last = math.min(first + count, position.stop) - 1
  if last < first then
    return {}
  end
  position.next = last + 1
  if source.list then
    return later.filter({t = 'any', z = {source.within}}, {unpack(source.list, first + 1, last + 1)}, view)
  end
  if source.desc then
    return redis.call('ZRANGE', source.z, first, last, 'REV')
  end
  return redis.call('ZRANGE', source.z, first, last)
end
