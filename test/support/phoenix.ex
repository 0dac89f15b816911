defmodule Phoenix.Router do
  @moduledoc "Stands in for Phoenix's router, in tests: this library brings none."

  def route_info(router, method, path, host) when is_list(path) do
    with {metadata, _, _, _} <- router.__match_route__(method, path, host), do: metadata
  end
end

defmodule Phoenix.Router.NoRouteError do
  @moduledoc "Stands in for what Phoenix raises where no route is found."
  defexception message: "no route found", plug_status: 404
end

defmodule Phoenix.LiveView do
  @moduledoc "Stands in for LiveView's hooks, in tests, as strict as they are."

  def attach_hook(%{router: router, private: private} = socket, id, stage, function) when router != nil do
    hooks = Map.get(private, :hooks, [])
    if List.keymember?(hooks, {stage, id}, 0), do: raise(ArgumentError, "existing hook")
    %{socket | private: Map.put(private, :hooks, hooks ++ [{{stage, id}, function}])}
  end

  def detach_hook(%{private: private} = socket, id, stage) do
    hooks = private |> Map.get(:hooks, []) |> List.keydelete({stage, id}, 0)
    %{socket | private: Map.put(private, :hooks, hooks)}
  end
end

defmodule Plug.Conn do
  @moduledoc "Stands in for Plug's conn, in tests: what is done before the response is sent."

  def register_before_send(%{private: private} = conn, function) when is_function(function, 1) do
    %{conn | private: Map.update(private, :before_send, [function], &[function | &1])}
  end

  def get_session(%{private: %{plug_session: session}}, key), do: session[key]

  def put_session(%{private: %{plug_session: session} = private} = conn, key, value),
    do: %{conn | private: %{private | plug_session: Map.put(session, key, value)}}

  def delete_session(%{private: %{plug_session: session} = private} = conn, key),
    do: %{conn | private: %{private | plug_session: Map.delete(session, key)}}

  @doc "As the real one does before the response goes out: the last registered is the first."
  def run_before_send(%{private: private} = conn) do
    Enum.reduce(Map.get(private, :before_send, []), conn, & &1.(&2))
  end
end

defmodule Plug.Exception do
  @moduledoc "Stands in for Plug's protocol, in tests, with what it does by default."
  def status(exception), do: Map.get(exception, :plug_status, 500)
end

defmodule Shop.NotFound do
  @moduledoc "An exception of the recorded app's, which is its visitor's fault."
  defexception message: "s3cret not found", plug_status: 404
end

defmodule ShopWeb.Endpoint do
  @moduledoc "The recorded app's endpoint."
  def script_name, do: []
end

defmodule ShopWeb.Inner do
  @moduledoc "The recorded app's router to which another forwards."
  def __match_route__("GET", ["deep", _], _host), do: {%{route: "/deep/:id"}, nil, nil, nil}
  def __match_route__(_, _, _), do: :error
end

defmodule ShopWeb.Router do
  @moduledoc "The recorded app's routes."

  def __match_route__("GET", path, _host) do
    case path do
      [] -> found("/")
      ["boom", _] -> found("/boom/:id")
      ["missing", _] -> found("/missing/:id")
      ["list"] -> found("/list")
      ["list", _] -> found("/list/:id")
      ["plain", _] -> found("/plain/:id")
      ["nohook", "plain", _] -> found("/nohook/plain/:id")
      ["tea ☕", _] -> found("/tea ☕/:id")
      [page] when page in ["plain", "bounce", "redirecter", "guarded2", "params_nav"] -> found("/" <> page)
      ["patcher" | rest] -> found(Enum.join(["/patcher" | rest], "/"))
      _ -> :error
    end
  end

  def __match_route__(_, _, _), do: :error

  defp found(route), do: {%{route: route}, nil, nil, nil}
end

defmodule BilldogEng.Recorded do
  @moduledoc "Telemetry events of the real libraries, from test/fixtures."

  @doc "The steps of a recording, each a name and its `{event, measurements, metadata}`."
  def steps(name) do
    {steps, _} = Code.eval_file("test/fixtures/#{name}.exs")

    for {step, recorded} <- steps,
        do: {step, for({event, measured, about} <- recorded, do: {event, measured, live(about)})}
  end

  @doc "Emits the events of a step in the calling process."
  def replay(steps, step) do
    {:ok, recorded} = Keyword.fetch(steps, step)
    for {event, measurements, metadata} <- recorded, do: :telemetry.execute(event, measurements, metadata)
    :ok
  end

  defp live(:pid), do: spawn(fn -> :ok end)
  defp live({:exception, module, message}), do: %{module.__struct__() | message: message}
  defp live(map) when is_map(map), do: Map.new(map, fn {key, value} -> {key, live(value)} end)
  defp live(list) when is_list(list), do: Enum.map(list, &live/1)
  defp live(tuple) when is_tuple(tuple), do: tuple |> Tuple.to_list() |> Enum.map(&live/1) |> List.to_tuple()
  defp live(other), do: other
end
