defmodule BilldogEng.Client.Suggestion do
  @moduledoc false
  # Finds the known name that an unknown name probably stands for.

  # Names that other clients use, and names with another prefix.
  @synonyms %{
    api_host: :host,
    api_url: :host,
    base_url: :host,
    endpoint: :host,
    url: :host,
    key: :api_key,
    project_api_key: :api_key,
    token: :api_key,
    batch_size: :max_batch_size,
    debug: :enable_logging,
    enabled: :mode,
    interval: :flush_interval,
    queue_size: :max_queue_size,
    retries: :max_retries,
    timeout: :request_timeout
  }

  # The Jaro distance of :hots and :host, or of :flush_att and :flush_at, is above this.
  @near 0.85

  # Returns one of the atoms `known`, or nil.
  def near(name, known) when is_atom(name) do
    synonym = @synonyms[name]
    if synonym in known, do: synonym, else: nearest(Atom.to_string(name), known)
  end

  def near(_name, _known), do: nil

  defp nearest(name, known) do
    {distance, nearest} =
      known |> Enum.map(&{String.jaro_distance(name, Atom.to_string(&1)), &1}) |> Enum.max(fn -> {0, nil} end)

    if distance >= @near, do: nearest
  end

  # Returns the names for a message, sorted: `:hots (did you mean :host?), :other`. The order of a map's keys differs from
  # one VM to the next.
  def listed(names, known) do
    names
    |> Enum.sort()
    |> Enum.map_join(", ", fn name ->
      case near(name, known) do
        nil -> inspect(name)
        near -> "#{inspect(name)} (did you mean #{inspect(near)}?)"
      end
    end)
  end
end
