-- Health of an Application for the one that brings it, whose waves wait by nothing else. What Argo CD itself says of its objects is not enough:
-- those that are not there yet do not count, so an Application in the middle of its first sync is Healthy.
local health = {status = "Progressing", message = "Argo CD has not looked at it yet"}
local status = obj.status or {}
local sync, last = status.sync, status.operationState
if sync == nil then
  return health
end

-- What is wrong with the spec or the manifests does not end by waiting, and who waits for it would never look at the next commit.
local wrong = {ComparisonError = true, InvalidSpecError = true, SyncError = true, UnknownError = true}
for _, condition in ipairs(status.conditions or {}) do
  if wrong[condition.type] then
    health.status = "Degraded"
    health.message = condition.type .. ": " .. condition.message
    return health
  end
end

-- Whether two values of JSON say the same, where what is empty may be left out.
local function same(one, other)
  if type(one or {}) ~= "table" or type(other or {}) ~= "table" then
    return (one or "") == (other or "")
  end
  for _, keys in ipairs({one or {}, other or {}}) do
    for key in pairs(keys) do
      if not same((one or {})[key], (other or {})[key]) then
        return false
      end
    end
  end
  return true
end

-- What is said of an earlier spec says nothing about this one.
local compared = sync.comparedTo or {}
for _, source in ipairs({"source", "sources"}) do
  if obj.spec[source] ~= nil and not same(obj.spec[source], compared[source]) then
    health.message = "Argo CD has not looked at the newest change yet"
    return health
  end
end

if last ~= nil and (last.phase == "Failed" or last.phase == "Error") then
  health.status = "Degraded"
  health.message = "the newest sync failed: " .. (last.message or "")
  return health
end
-- Without a sync all was there when Argo CD came.
if obj.operation ~= nil or last ~= nil and last.phase ~= "Succeeded" then
  health.message = "a sync is under way"
  return health
end
-- What is there besides and may not be pruned stays so, and nobody waits for it.
local is_synced = sync.status == "Synced"
if sync.status == "OutOfSync" then
  local besides = false
  is_synced = true
  for _, resource in ipairs(status.resources or {}) do
    besides = besides or resource.requiresPruning == true
    is_synced = is_synced and (resource.status ~= "OutOfSync" or resource.requiresPruning == true)
  end
  is_synced = is_synced and besides
end
if not is_synced then
  health.message = "not as in Git: " .. (sync.status or "Unknown")
  return health
end

if status.health ~= nil then
  health.status = status.health.status or health.status
  health.message = status.health.message or ""
end
return health
