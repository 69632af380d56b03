-- purpose: escaped texts as the tails of index keys have them
-- defines: mirrored
-- include: lib/null.lua

-- The escaped text of the reversed text: the characters of UTF-8 turned round, each escape kept as it is.
local function mirrored(escaped)
  local turned = escaped:reverse()
  if escaped:find('[\128-\255]') then
    turned = turned:gsub('([\128-\191]+)([\192-\255])', function(rest, first) return first .. rest:reverse() end)
  end
  -- Before each % stand the two digits that followed it.
  return escaped:find('%', 1, true) and (turned:gsub('(%x)(%x)%%', '%%%2%1')) or turned
end
