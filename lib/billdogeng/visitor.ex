defmodule BilldogEng.Visitor do
  @moduledoc """
  Gives each visitor without an account a distinct ID, and keeps it in the session. This module is a plug.

      # in the router, after the session and before BilldogEng.Plug
      pipeline :browser do
        plug :fetch_session
        plug :fetch_current_scope_for_user
        plug BilldogEng.Visitor
        plug BilldogEng.Plug
      end

  `BilldogEng.Plug` and `BilldogEng.LiveView` use this ID if they find no user. If they have a `:distinct_id` function,
  they use only its result; the function can call `id/1`.

  At login, before the session is renewed, connect the visitor's events with the user:

      visitor = BilldogEng.Visitor.id(conn)
      if visitor, do: MyApp.Analytics.alias(user.id, visitor)

  The ID is random, contains no data of the visitor, and exists as long as the session. A logout that clears the session
  removes it. With a `:max_age` in the endpoint's `@session_options` it survives a restart of the browser. Plug signs the
  session's cookie. A browser that accepts no cookies is a new visitor at each request.

  Without this plug, visitors without an account are not captured. To wait for consent, call it from a plug of the app:

      def visitor(conn, _opts) do
        if get_session(conn, :consent),
          do: BilldogEng.Visitor.call(conn, BilldogEng.Visitor.init([])),
          else: BilldogEng.Visitor.forget(conn)
      end
  """

  # Without `@behaviour Plug`, because Plug may be compiled later, or missing.

  @compile {:no_warn_undefined, Plug.Conn}

  # The ID's key in the session. `BilldogEng.LiveView` reads it there too.
  @key "billdogeng_visitor"

  @doc false
  def init([]), do: []

  def init(other) do
    raise ArgumentError, "invalid options of BilldogEng.Visitor: expected none, got: #{inspect(other)}"
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
  Returns the visitor's distinct ID of a conn or a socket, or nil.

      iex> BilldogEng.Visitor.id(%{private: %{}})
      nil
  """
  @spec id(map()) :: String.t() | nil
  def id(%{private: %{billdogeng_visitor: id}}), do: id
  def id(_conn_or_socket), do: nil

  @doc group: "State"
  @doc """
  Removes the visitor's distinct ID from the session and the conn.

      iex> private = %{plug_session: %{"billdogeng_visitor" => "visitor-1"}, billdogeng_visitor: "visitor-1"}
      iex> BilldogEng.Visitor.forget(%{private: private})
      %{private: %{plug_session: %{}}}
  """
  @spec forget(conn) :: conn when conn: map()
  def forget(%{private: private} = conn) do
    Plug.Conn.delete_session(%{conn | private: Map.delete(private, :billdogeng_visitor)}, @key)
  end

  @doc false
  # Returns the socket with the ID of its session.
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
