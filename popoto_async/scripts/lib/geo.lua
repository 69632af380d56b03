-- purpose: distances on the sphere, and the stretches of a geo index that can hold what lies in an area
-- defines: geo

local geo = {}

-- Metres and degrees, as the server's own geo commands have them.
local EARTH_RADIUS = 6372797.560856
local INDEXED_LATITUDE = 85.05112878
local HALF_TURN = 180
-- A geohash keeps a position to about 0.6 m; areas are searched this much wider and then measured exactly.
local MARGIN = 1
local DEEPEST = 26
local MOST_CELLS = 24

-- Latitude and longitude of a stored position.
function geo.position(text)
  local latitude, longitude = text:match('^([^,]+),(.+)$')
  return tonumber(latitude), tonumber(longitude)
end

-- The great-circle distance in metres (haversine formula).
function geo.distance(latitude_a, longitude_a, latitude_b, longitude_b)
  local phi_a, phi_b = math.rad(latitude_a), math.rad(latitude_b)
  local u = math.sin((phi_b - phi_a) / 2)
  local v = math.sin((math.rad(longitude_b) - math.rad(longitude_a)) / 2)
  return 2 * EARTH_RADIUS * math.asin(math.sqrt(math.min(1, u * u + math.cos(phi_a) * math.cos(phi_b) * v * v)))
end

-- Areas by node type: whether a position lies in it, how far its farthest point can be from its centre, and the degrees
-- it spans north or south and east or west of the centre.
local areas = {near = {}, box = {}}

function areas.near.holds(node, latitude, longitude)
  local distance = geo.distance(node.lat, node.lon, latitude, longitude)
  return distance <= node.r and distance > (node.beyond or -1)
end

function areas.near.reach(node)
  return node.r
end

function areas.near.span(node)
  local angle = (node.r + MARGIN) / EARTH_RADIUS
  local edge = math.rad(math.abs(node.lat)) + angle
  local across = edge < math.pi / 2 and math.deg(math.asin(math.sin(angle) / math.cos(math.rad(node.lat))))
  return math.deg(angle), across or HALF_TURN
end

-- As GEOSEARCH BYBOX measures: the height along the meridian, the width along the parallel of the position.
function areas.box.holds(node, latitude, longitude)
  local height = EARTH_RADIUS * math.abs(math.rad(latitude) - math.rad(node.lat))
  return height <= node.h / 2 and geo.distance(latitude, node.lon, latitude, longitude) <= node.w / 2
end

function areas.box.reach(node)
  return (node.w + node.h) / 2
end

function areas.box.span(node)
  local angle = (node.h / 2 + MARGIN) / EARTH_RADIUS
  local edge = math.min(math.rad(math.abs(node.lat)) + angle, math.pi / 2)
  local quarter = math.min((node.w / 2 + MARGIN) / EARTH_RADIUS / 2, math.pi / 2)
  local sine = math.sin(quarter) / math.cos(edge)
  return math.deg(angle), sine < 1 and math.deg(2 * math.asin(sine)) or HALF_TURN
end

function geo.holds(node, text)
  return areas[node.t].holds(node, geo.position(text))
end

-- No position of the area is farther than this from a point.
function geo.reach(node, latitude, longitude)
  local reach = areas[node.t].reach(node) + geo.distance(latitude, longitude, node.lat, node.lon)
  return math.min(reach, math.pi * EARTH_RADIUS)
end

-- Rows and columns of cells that the area touches when each axis is cut in 2^depth; columns run on past the date line.
local function grid(node, depth)
  local high, wide = areas[node.t].span(node)
  local cells = 2 ^ depth
  local function row(latitude)
    return math.floor((latitude + INDEXED_LATITUDE) / (2 * INDEXED_LATITUDE) * cells)
  end
  local function column(longitude)
    return math.floor((longitude + HALF_TURN) / (2 * HALF_TURN) * cells)
  end
  local south, north = math.max(0, row(node.lat - high)), math.min(cells - 1, row(node.lat + high))
  local west, east = column(node.lon - wide), column(node.lon + wide)
  return {south = south, north = north, west = west, east = math.min(east, west + cells - 1), cells = cells}
end

local function cells_in(found)
  return (found.north - found.south + 1) * (found.east - found.west + 1)
end

-- The bits of a number moved to the even places, as those of a row are in a geohash.
local function spread(number)
  local spaced, weight = 0, 1
  while number > 0 do
    spaced = spaced + weight * (number % 2)
    number, weight = math.floor(number / 2), weight * 4
  end
  return spaced
end

local function hashes_of(found)
  local columns, hashes = {}, {}
  for column = found.west, found.east do
    columns[#columns + 1] = 2 * spread(column % found.cells)
  end
  for row = found.south, found.north do
    local even = spread(row)
    for _, odd in ipairs(columns) do
      hashes[#hashes + 1] = even + odd
    end
  end
  table.sort(hashes)
  return hashes
end

-- The stretches {lo, hi} of the index in which every position of the area stands, and not much else: its cells at the
-- finest depth that needs few of them, neighbours joined. They are kept on the node.
function geo.stretches(node)
  if node.stretches then
    return node.stretches
  end
  node.stretches = {}
  local depth = DEEPEST
  local found = grid(node, depth)
  if found.north < found.south then
    return node.stretches
  end
  while cells_in(found) > MOST_CELLS do
    depth = depth - 1
    found = grid(node, depth)
  end
  local size, last, stop = 4 ^ (DEEPEST - depth), nil, nil
  for _, hash in ipairs(hashes_of(found)) do
    if hash * size ~= stop then
      last = {lo = string.format('%.0f', hash * size)}
      table.insert(node.stretches, last)
    end
    stop = (hash + 1) * size
    last.hi = string.format('(%.0f', stop)
  end
  return node.stretches
end
