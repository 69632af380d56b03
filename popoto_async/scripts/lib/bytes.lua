-- purpose: the order of byte strings, as sorted sets and Python have it
-- defines: bytes

local bytes = {}

-- `<` follows the locale of the server. In the C locale that is the order of bytes; all others have "a" before "B".
local plain_order = 'B' < 'a'

local function first_difference(a, b)
  for i = 1, math.min(#a, #b) do
    if a:byte(i) ~= b:byte(i) then
      return i
    end
  end
end

function bytes.less(a, b)
  if plain_order then
    return a < b
  end
  local i = first_difference(a, b)
  if i then
    return a:byte(i) < b:byte(i)
  end
  return #a < #b
end

function bytes.compare(a, b)
  if a == b then
    return 0
  end
  return bytes.less(a, b) and -1 or 1
end
