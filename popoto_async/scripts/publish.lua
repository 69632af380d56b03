-- purpose: send a message to those who listen to a channel now
-- keys: none
-- args: op.channel; the message
-- reply: ok receivers

operations.publish = function(_, op)
  return {'ok', redis.call('PUBLISH', op.channel, ARGV[op.at])}
end
