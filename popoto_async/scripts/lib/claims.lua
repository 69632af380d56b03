-- purpose: claims, which one record holds and no other may have
-- defines: claim_conflict
-- include: lib/writes.lua

-- The first claim that a living record other than this one holds: its slot, tail and owner. A strict claim (`k`) is lost
-- to another record under the same key too, whether this one is new or comes from elsewhere.
local function claim_conflict(model, entries, key, from, inserting)
  for i = 1, model.kinds and #entries or 0, 3 do
    local slot, tail = entries[i], entries[i + 1]
    local kind = model.kinds[slot]
    if kind then
      local owner = run('HGET', model.places[slot + 1], tail)
      local own = owner == from or (owner == key and kind ~= 'k')
      if owner and (not own or (kind == 'k' and inserting)) and redis.call('EXISTS', owner) == 1 then
        return slot, tail, owner
      end
    end
  end
end
