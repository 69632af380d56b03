-- purpose: the tail that stands for null
-- defines: NULL

-- No escaped text is this.
local NULL = '%null'
