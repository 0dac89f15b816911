defmodule BilldogEng.Visitor do
  @moduledoc """
  A plug that gives visitors without an account a distinct ID, kept in the session.

      # in the router: after the session, before BilldogEng.Plug
      pipeline :browser do
        plug :fetch_session
        plug :fetch_current_scope_for_user
        plug BilldogEng.Visitor
        plug BilldogEng.Plug
      end

  `BilldogEng.Plug` and `BilldogEng.LiveView` then use that ID for as long as they find no user. Where they have a
  `:distinct_id` function, that one decides alone; it may call `id/1`.

  At login, before the session is renewed, two lines connect what the visitor has done with the user:

      visitor = BilldogEng.Visitor.id(conn)
      if visitor, do: MyApp.Analytics.alias(user.id, visitor)

  The ID is random, holds nothing of the visitor, and lives as long as the session: a logout that clears the session
  ends it, and a `:max_age` of the endpoint's `@session_options` has it outlive the browser. The session's cookie is
  signed by Plug. Where cookies are not accepted, each request is a visitor of its own.

  The plug is opt-in: without it visitors without an account are not counted. To have it wait for consent, call it
  from a plug of your own:

      def visitor(conn, _opts) do
        if get_session(conn, :consent),
          do: BilldogEng.Visitor.call(conn, BilldogEng.Visitor.init([])),
          else: BilldogEng.Visitor.forget(conn)
      end
  """

  # Not `@behaviour Plug`, for it may be compiled before Plug is, or without it.

  @compile {:no_warn_undefined, Plug.Conn}

  # Its name in the session, where a LiveView's hook finds it too.
  @key "billdogeng_visitor"

  @doc false
  def init([]), do: []

  def init(other) do
    raise ArgumentError, "BilldogEng.Visitor takes no options, got: #{inspect(other)}"
  end

  @doc false
  def call(conn, _opts) do
    case Plug.Conn.get_session(conn, @key) do
      id when is_binary(id) ->
        known(conn, id)

      _ ->
        id = random()
        conn |> Plug.Conn.put_session(@key, id) |> known(id)
    end
  end

  @doc group: "State"
  @doc """
  Returns the visitor's distinct ID, of a conn or a socket; nil where it has none.

      iex> BilldogEng.Visitor.id(%{private: %{}})
      nil
  """
  @spec id(map()) :: String.t() | nil
  def id(%{private: %{billdogeng_visitor: id}}), do: id
  def id(_conn_or_socket), do: nil

  @doc group: "State"
  @doc """
  Takes the visitor's distinct ID out of the session.

      iex> private = %{plug_session: %{"billdogeng_visitor" => "visitor-1"}, billdogeng_visitor: "visitor-1"}
      iex> BilldogEng.Visitor.forget(%{private: private})
      %{private: %{plug_session: %{}}}
  """
  @spec forget(conn) :: conn when conn: map()
  def forget(%{private: private} = conn) do
    Plug.Conn.delete_session(%{conn | private: Map.delete(private, :billdogeng_visitor)}, @key)
  end

  @doc false
  # A socket whose session holds one.
  def of_session(socket, %{@key => id}) when is_binary(id), do: known(socket, id)
  def of_session(socket, _session), do: socket

  defp known(%{private: private} = conn_or_socket, id) do
    %{conn_or_socket | private: Map.put(private, :billdogeng_visitor, id)}
  end

  defp random do
    {bytes, _state} = :rand.bytes_s(16, :rand.seed_s(:exsss))
    "visitor-" <> Base.url_encode64(bytes, padding: false)
  end
end
