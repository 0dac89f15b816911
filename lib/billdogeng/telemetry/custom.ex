defmodule BilldogEng.Telemetry.Custom do
  @moduledoc false
  # Any event of `:telemetry`'s, captured by the name that the app gives it.

  alias BilldogEng.Telemetry.Handler

  @doc false
  def events([name | _] = event) when is_atom(name), do: [event]
  def events([_ | _] = events), do: events
  def events(other), do: [other]

  @doc false
  def options(name)
      when name == nil or is_binary(name) or is_atom(name) or is_function(name, 2) or is_function(name, 3) do
    %{name: name}
  end

  def options(_name) do
    raise ArgumentError,
          "the option :event takes the name of an event, or a function of measurements and metadata that answers one"
  end

  @doc false
  def read(event, measurements, metadata, %{name: name}) do
    case name do
      nil -> {Enum.join(event, "."), %{}}
      function when is_function(function) -> named(Handler.call(function, event, measurements, metadata))
      name -> {name, %{}}
    end
  end

  defp named(name) when name in [nil, ""], do: nil
  defp named(name), do: {name, %{}}
end
