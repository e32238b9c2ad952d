-- Orthanc sends every CT and MR series to the node as soon as no more images come.
function OnStableSeries(series, tags, metadata)
  if tags.Modality == 'CT' or tags.Modality == 'MR' then
    local job = { Resources = { series }, Synchronous = false }
    RestApiPost('/modalities/CRLM/store', DumpJson(job))
  end
end
