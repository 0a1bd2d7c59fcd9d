// Draws the API's document with Swagger UI. Whoever has logged in on the first page, in this tab, tries it as that user.
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

window.SwaggerUIBundle({
  url: "/api/v1/openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  validatorUrl: null,
  requestInterceptor(request) {
    const token = sessionStorage.getItem("loquent.token");
    const isOurs = new URL(request.url, location.href).origin === location.origin;
    if (token && isOurs && !request.headers.Authorization) request.headers.Authorization = `Bearer ${token}`;
    return request;
  },
});
