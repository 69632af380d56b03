-- purpose: the manifest of a record: what it occupies, read and stored
-- defines: EMPTY, listed_entries, read_manifest, store_manifest
-- include: lib/inline.lua
-- include: lib/writes.lua

-- An empty list in MessagePack.
local EMPTY = '\144'

-- The entries of a manifest. Up to 15 items follow its first byte: taken one by one, they are put into a table that is
-- made for so many.
local function listed_entries(text)
  local first = text:byte()
  if first >= 144 and first < 160 then
    return {select(2, cmsgpack.unpack_limit(text, 15, 1))}
  end
  return cmsgpack.unpack(text)
end

-- What stands under a record's key: `mark` is its field `$` (false: no record), `text` its manifest, which may be that of
-- a record that expired and was not swept yet. The second result is an outcome when the key holds something else; a hash
-- without `$` is something else, too.
local function read_manifest(model, key)
  local mark = redis.pcall('HGET', key, '$')
  if type(mark) == 'table' then
    return nil, {'foreign', key, redis.call('TYPE', key).ok}
  end
  if mark and mark ~= '' then
    return {mark = mark, text = mark}
  end
  if not mark and redis.call('EXISTS', key) == 1 then
    return nil, {'foreign', key, 'hash'}
  end
  local companion = not bare[model.class] and run('HGET', model.man, key)
  return {mark = mark, text = companion or EMPTY, companion = companion}
end

-- Stores a manifest outside the hash where it must be, and returns what field `$` has to hold.
local function store_manifest(model, key, old, text, expiring)
  local outside = expiring or #text > MANIFEST_INLINE
  local before = old.companion
  if outside and before ~= text then
    local inverse = before and {'HSET', model.man, key, before} or {'HDEL', model.man, key}
    write(inverse, 'HSET', model.man, key, text)
    bare[model.class] = nil
  elseif not outside and before then
    write({'HSET', model.man, key, before}, 'HDEL', model.man, key)
  end
  return outside and '' or text
end
