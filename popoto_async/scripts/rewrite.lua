-- purpose: go on replacing the references to a record whose key has changed
-- keys: the hash of keys that have changed, the records that refer, their index keys
-- args: op.key (the earlier one), op.alias
-- reply: ok left | clash model key owner
-- include: lib/moved.lua

operations.rewrite = function(call, op)
  local outcome, left = rewrite_alias(call, op.alias, op.key, MOST_REFERRERS)
  return outcome or {'ok', left}
end
