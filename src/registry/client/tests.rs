use tokio::net::TcpListener;

use super::*;

/// The test resolver knows these names.
#[tokio::test]
async fn client_connects_to_no_refused_address_of_a_name() {
    // On Linux a connection to 0.0.0.0 reaches this listener.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let ask = async |addresses: &str| {
        let endpoint = Endpoint::new(format!("http://{addresses}.addresses.localhost:{port}"));
        Client::new(&endpoint).unwrap().head("p/app", "v1").await
    };
    tokio::select! {
        result = ask("0-0-0-0") => {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::Unreachable { .. }), "{error}");
            assert!(error.to_string().contains("resolves to 0.0.0.0, an address that no server can have"), "{error}");
        }
        _ = listener.accept() => panic!("a refused address was connected to"),
    }
    tokio::select! {
        result = ask("169-254-169-254.127-0-0-1") => panic!("{:?}", result.err()),
        accepted = listener.accept() => assert!(accepted.is_ok()),
    }
}
