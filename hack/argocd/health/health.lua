-- Health of every kind of platform.dev for Argo CD, from the conditions that all seven have (docs/operator.md).
-- Argo CD calls an object healthy as soon as it exists, unless it is told better.
local health = {status = "Progressing", message = "the operator has not looked at it yet"}

if obj.metadata.annotations ~= nil and obj.metadata.annotations["platform.dev/paused"] == "true" then
  health.status = "Suspended"
  health.message = "the annotation platform.dev/paused is \"true\""
  return health
end
if obj.status == nil or obj.status.conditions == nil then
  return health
end
-- What is said of an earlier spec says nothing about this one.
if obj.metadata.generation ~= nil and obj.status.observedGeneration ~= obj.metadata.generation then
  health.message = "the operator has not looked at the newest change yet"
  return health
end

local is = {}
for _, condition in ipairs(obj.status.conditions) do
  is[condition.type] = condition
end
local function holds(kind)
  return is[kind] ~= nil and is[kind].status == "True"
end
local function said(kind)
  return is[kind].reason .. ": " .. is[kind].message
end

if holds("Stalled") then
  health.status = "Degraded"
  health.message = said("Stalled")
elseif holds("Ready") then
  -- What was there before answers while a change is carried out: the next wave waits until it is.
  health.status = holds("Reconciling") and "Progressing" or "Healthy"
  health.message = obj.status.summary or is["Ready"].message
  -- It answers, but something that it needs or was asked for is not as it should be: a person should look, nothing has to stop.
  if holds("Degraded") then
    health.message = health.message .. " (" .. said("Degraded") .. ")"
  end
elseif holds("Degraded") then
  health.status = "Degraded"
  health.message = said("Degraded")
elseif is["Ready"] ~= nil then
  health.message = said("Ready")
end
return health
