-- purpose: entries of a stream that a consumer group has delivered and nobody has acknowledged
-- defines: pending, bury, hand_back

-- Pending entries from one id to another, of one consumer where it is given: {id, consumer, idle in ms, deliveries}
-- each. An error where there is no such group.
local function pending(op, first, last, count, consumer)
  local command = {'XPENDING', op.stream, op.group, first, last, count, consumer}
  return redis.pcall(unpack(command))
end

-- Moves an entry to the dead letters: what is known of its end, then its own fields.
local function bury(op, item, fields, reason)
  local letter = {'XADD', op.dead, 'MAXLEN', '~', op.limit, '*'}
  for _, word in ipairs({'id', item[1], 'group', op.group, 'deliveries', item[4], 'reason', reason}) do
    letter[#letter + 1] = word
  end
  for _, word in ipairs(fields) do
    letter[#letter + 1] = word
  end
  redis.call(unpack(letter))
  redis.call('XACK', op.stream, op.group, item[1])
end

-- Has an entry count as left alone for long enough, so that the next who asks gets it.
local function hand_back(op, item, deliveries)
  if #redis.call('XRANGE', op.stream, item[1], item[1]) == 0 then
    bury(op, item, {}, 'trimmed')
  else
    redis.call(
      'XCLAIM', op.stream, op.group, item[2], 0, item[1], 'IDLE', op.idle, 'RETRYCOUNT', deliveries, 'JUSTID'
    )
  end
end
